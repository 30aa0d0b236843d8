"""Who holds an object that should be gone: a path of references to it, as text."""

import gc
import types

MAX_OBJECTS = 20_000
# Looked at; beyond that nobody would read the path.


def path_to(found, ignored=()):
    """From a module, a frame or a task to the object: the kinds on the way, the object last."""
    skipped = {id(each) for each in ignored}
    before = {id(found): None}
    kept = [found]
    place = 0
    while place < len(kept) and place < MAX_OBJECTS:
        one = kept[place]
        place += 1
        for holder in gc.get_referrers(one):
            if id(holder) in before or id(holder) in skipped or holder is kept or holder is before:
                continue
            if isinstance(holder, types.FrameType) and holder.f_code.co_filename == __file__:
                continue
            before[id(holder)] = one
            kept.append(holder)
            if _is_root(holder):
                return " -> ".join(_path(holder, before))
    return "nobody: " + " -> ".join(_path(kept[-1], before))


def _is_root(holder):
    """Whether it lives by itself."""
    if isinstance(holder, (types.ModuleType, types.FrameType)):
        return True
    return isinstance(holder, dict) and "__name__" in holder and "__loader__" in holder


def _path(holder, before):
    told = []
    while holder is not None:
        told.append(_word(holder))
        holder = before[id(holder)]
    return told


def _word(one):
    kind = type(one).__name__
    if isinstance(one, types.FrameType):
        return f"frame {one.f_code.co_qualname}:{one.f_lineno}"
    if isinstance(one, dict) and "__name__" in one:
        return f"module {one['__name__']}"
    if isinstance(one, (types.FunctionType, types.MethodType)):
        return f"{kind} {one.__qualname__}"
    if isinstance(one, (types.CoroutineType, types.GeneratorType)):
        return f"{kind} {one.__qualname__}"
    return kind
