"""Files that are read again when they change: keys, certificates, the configuration."""

import asyncio
import os

import pytest

from memroute_router import watched
from memroute_router.watched import WatchedFiles
from router_rig import until


class UnusableError(Exception):
    """The file cannot be used."""


class Files:
    """Two files and what was read of them."""

    def __init__(self, folder, **facts):
        self.one, self.two = folder / "one", folder / "two"
        self.one.write_text("1")
        self.two.write_text("2")
        self.applied, self.reloads, self.bugs = [], [], []
        self.others = ()
        self.raises = None
        self.file = WatchedFiles(
            "things", (self.one, self.two), self.read, self.apply, errors=(UnusableError,),
            on_reload=self.reloads.append, **facts,
        )  # fmt: skip

    def read(self):
        if self.raises is not None:
            raise self.raises
        return self.one.read_text() + self.two.read_text()

    def apply(self, found):
        self.applied.append(found)
        return self.others


def replaced(files):
    (files.one.parent / "new").write_text("x")
    (files.one.parent / "new").rename(files.one)


def linked(files):
    """As a Secret is changed: by a link to another folder."""
    target = files.one.parent / "..data"
    target.write_text("1")
    files.one.unlink()
    files.one.symlink_to(target)


def with_the_old_time(files):
    status = files.one.stat()
    files.one.write_text("9")
    os.utime(files.one, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        replaced,
        linked,
        with_the_old_time,
        lambda files: files.two.write_text("22"),
        lambda files: files.two.chmod(0o600),
    ],
    ids=["renamed", "linked", "same time and size", "the other one", "may be read now"],
)
def test_a_change_is_seen_however_it_is_made(tmp_path, change):
    """Editors rename, kubelets link, tools keep the time; what could not be read may be, now."""
    files = Files(tmp_path)
    files.file.load()
    assert not files.file.look()
    change(files)
    assert files.file.look()
    assert len(files.applied) == 2
    assert files.reloads == [True]
    assert not files.file.look()


def test_a_broken_file_changes_nothing_and_is_told_once(tmp_path, caplog):
    files = Files(tmp_path)
    files.file.load()
    files.raises = UnusableError("the third line is odd")
    files.one.write_text("broken")
    assert files.file.look()
    assert not files.file.look()
    assert files.reloads == [False]
    assert caplog.text.count("things not applied, the last good one stays") == 1
    assert "the third line is odd" in caplog.text
    files.raises = None
    files.two.write_text("mended")
    assert files.file.look()
    assert files.applied == ["12", "brokenmended"]


@pytest.mark.parametrize("is_counted", [False, True])
def test_a_bug_is_no_reason_to_quote_the_file(tmp_path, caplog, is_counted):
    """Words that are not ours could hold a key of it."""
    bugs = []
    files = Files(tmp_path, **({"on_bug": bugs.append} if is_counted else {}))
    files.file.load()
    files.raises = ValueError("secret")
    files.one.write_text("x")
    assert files.file.look()
    assert "secret" not in caplog.text
    assert "ValueError" in caplog.text
    assert bugs == ([files.raises] if is_counted else [])


def test_files_that_a_file_names_are_looked_at_too(tmp_path):
    """A list of an issuer's keys, beside the file of keys."""
    files = Files(tmp_path)
    named = tmp_path / "named"
    named.write_text("a")
    files.others = (named,)
    files.file.load()
    named.write_text("ab")
    assert files.file.look()
    files.others = ()
    files.one.write_text("names nothing more")
    assert files.file.look()
    named.write_text("abc")
    assert not files.file.look()


def test_the_first_reading_says_what_is_wrong(tmp_path):
    files = Files(tmp_path)
    files.raises = UnusableError("no")
    with pytest.raises(UnusableError):
        files.file.load()


async def test_it_is_followed_for_ever_and_read_when_asked(tmp_path, monkeypatch):
    """Whatever is wrong with a file ends no loop; SIGHUP reads it, changed or not."""
    monkeypatch.setattr(watched, "POLL_SECONDS", 0.005)
    files = Files(tmp_path)
    files.file.load()
    following = asyncio.create_task(files.file.follow())
    files.raises = RuntimeError("bug")
    files.one.write_text("x")
    await until(lambda: files.reloads == [False])
    files.raises = None
    files.file.reload_soon()
    await until(lambda: files.reloads == [False, True])
    files.one.unlink()
    await until(lambda: files.reloads[2:] == [False])
    files.one.write_text("back")
    await until(lambda: files.reloads[-1:] == [True] and files.applied[-1] == "back2")
    following.cancel()
