"""What stands for upstream's images, and how its suite's results are judged. No suite is run."""

from pathlib import Path

import pytest
import yaml
from upstream_binary import SuiteError, check_suite, check_test, given_suite
from upstream_pods import UnmappedError, environment_of, image_name, picker_flags, programs_of
from upstream_report import (
    KNOWN_FAILURES,
    LATER_TESTS,
    TESTS,
    Outcome,
    Result,
    report_troubles,
    results_of,
    rows_of,
    table,
)

ECHO = Path("/cache/echo-basic")
ADDRESS = "10.244.0.17"
# Two pods as Deployments of upstream's base.yaml (v1.3.0) want them, shortened.
RANKS = """
metadata: {name: dp-0, namespace: inference-conformance-app-backend}
spec:
  containers:
  - name: echoserver-3000
    image: gcr.io/k8s-staging-gateway-api/echo-basic:v20251106-v1.3.0-263-g47c3435c
    ports:
    - containerPort: 3000
    readinessProbe:
      httpGet: {path: /, port: 3000}
    env:
    - {name: HTTP_PORT, value: "3000"}
    - {name: H2C_PORT, value: "3001"}
    - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
    - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  - name: echoserver-3002
    image: gcr.io/k8s-staging-gateway-api/echo-basic:v20251106-v1.3.0-263-g47c3435c
    readinessProbe:
      httpGet: {path: /, port: 3002}
    env:
    - {name: HTTP_PORT, value: "3002"}
    - {name: H2C_PORT, value: "3003"}
"""
PICKER = """
metadata: {name: epp-0, namespace: inference-conformance-app-backend}
spec:
  containers:
  - name: epp
    image: registry.k8s.io/gateway-api-inference-extension/epp:v1.3.0
    args:
    - --pool-name
    - "primary-inference-pool"
    - --pool-namespace
    - "inference-conformance-app-backend"
    - --v
    - "4"
    - --zap-encoder
    - "json"
    - --grpc-port
    - "9002"
    - --grpc-health-port
    - "9003"
    - "--config-file"
    - "/config/conformance-plugins.yaml"
"""
# As `-test.v` prints it.
OUTPUT = """\
=== RUN   TestConformance
    conformance.go:209: Running Inference Extension conformance tests with GatewayClass istio
=== RUN   TestConformance/InferencePoolAccepted
--- FAIL: TestConformance (240.10s)
    --- PASS: TestConformance/EppUnAvailableFailOpen (2.31s)
        --- PASS: TestConformance/EppUnAvailableFailOpen/Phase_1:_Verify_baseline (0.10s)
    --- FAIL: TestConformance/GatewayWeightedAcrossTwoInferencePools (200.52s)
    --- SKIP: TestConformance/InferencePoolAccepted (0.00s)
FAIL
"""


def passed(*names):
    return {name: Result(Outcome.PASSED, 1.0) for name in names}


def judged(results, *, asked=None):
    rows = rows_of(results, expected=TESTS, known=KNOWN_FAILURES, asked=asked)
    return {row.test: row for row in rows}


def as_known():
    """Results of a run in which all is as the list says."""
    failed = {name: Result(Outcome.FAILED, 200.0) for name in KNOWN_FAILURES}
    return passed(*TESTS) | failed


def test_each_container_of_a_pod_is_a_server_with_its_own_ports_and_probe():
    """Data-parallel ranks: three servers in one pod, told apart by HTTP_PORT alone."""
    programs = programs_of(yaml.safe_load(RANKS), ADDRESS, echo=ECHO)
    assert [(list(one.command), one.port, one.path) for one in programs] == [
        (["/cache/echo-basic"], 3000, "/"),
        (["/cache/echo-basic"], 3002, "/"),
    ]
    assert programs[0].environment == {
        "HTTP_PORT": "3000",
        "H2C_PORT": "3001",
        "POD_NAME": "dp-0",
        "NAMESPACE": "inference-conformance-app-backend",
        "POD_IP": ADDRESS,
    }
    assert not any(program.is_picker for program in programs)


def test_upstreams_picker_is_memroutes_with_the_pool_that_the_manifest_names():
    """Its flags are ones that the picker's own parser takes."""
    from memroute_picker.settings import parse_settings

    (program,) = programs_of(yaml.safe_load(PICKER), ADDRESS, echo=ECHO)
    _, module, name, *flags = program.command
    assert (module, name, program.is_picker) == ("-m", "memroute_picker", True)
    settings = parse_settings(flags)
    pool = ("inference-conformance-app-backend", "primary-inference-pool")
    assert settings.inference_pool == (pool,)
    assert settings.conformance_test
    assert (settings.router.host, settings.router.port) == (ADDRESS, 9002)
    assert settings.router.ops_port == program.port


def test_flags_may_have_their_values_behind_an_equals_sign():
    assert picker_flags(["--pool-name=a", "--pool-namespace", "b", "--grpc-port=9004"]) == [
        "--inference-pool", "b/a", "--port", "9004", "--conformance-test",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--pool-name", "a", "--pool-namespace", "b", "--secure-serving", "no"], "--secure-serv"),
        (["--pool-name", "a"], "--pool-namespace"),
        (["--pool-namespace", "b", "--pool-name"], "no value"),
    ],
)
def test_a_flag_that_nothing_stands_for_is_an_error_and_not_left_out(arguments, word):
    """A newer manifest must not pass with half of what it asks for."""
    with pytest.raises(UnmappedError, match=word):
        picker_flags(arguments)


def test_an_image_that_nothing_stands_for_is_an_error():
    pod = yaml.safe_load(PICKER)
    pod["spec"]["containers"][0]["image"] = "example.com/vllm:v1"
    with pytest.raises(UnmappedError, match="the image example"):
        programs_of(pod, ADDRESS, echo=ECHO)


def test_a_variable_from_elsewhere_is_an_error():
    entry = {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}}
    with pytest.raises(UnmappedError, match="KEY"):
        environment_of([entry], yaml.safe_load(PICKER), ADDRESS)


@pytest.mark.parametrize(
    "image", ["registry:5000/a/lwepp:main", "lwepp", "a/lwepp@sha256:00", "a/lwepp:v1@sha256:00"]
)
def test_an_image_is_known_by_its_last_name(image):
    assert image_name(image) == "lwepp"


def test_results_are_those_of_whole_tests():
    """A test's phases are lines of their own, which the suite indents."""
    assert results_of(OUTPUT) == {
        "EppUnAvailableFailOpen": Result(Outcome.PASSED, 2.31),
        "GatewayWeightedAcrossTwoInferencePools": Result(Outcome.FAILED, 200.52),
        "InferencePoolAccepted": Result(Outcome.SKIPPED, 0.0),
    }


def test_all_is_right_where_all_is_as_known():
    rows = judged(as_known())
    assert not any(row.is_wrong for row in rows.values())
    (failure,) = KNOWN_FAILURES
    assert "istio#61594" in rows[failure].note


def test_a_failure_that_nobody_knows_is_wrong():
    results = as_known() | {"InferencePoolAccepted": Result(Outcome.FAILED, 300.0)}
    assert [row.test for row in judged(results).values() if row.is_wrong] == [
        "InferencePoolAccepted"
    ]


def test_a_known_failure_that_passes_is_wrong():
    """The list is for what fails: whoever mends a gateway shall see it."""
    (failure,) = KNOWN_FAILURES
    row = judged(passed(*TESTS))[failure]
    assert row.is_wrong
    assert "take it off the list" in row.note


@pytest.mark.parametrize("outcome", [Outcome.SKIPPED, Outcome.NOT_RUN])
@pytest.mark.parametrize("name", ["InferencePoolAccepted", *KNOWN_FAILURES])
def test_nothing_is_skipped_in_silence(outcome, name):
    """Neither what should pass, nor what is known to fail."""
    results = {each: one for each, one in as_known().items() if each != name}
    if outcome is Outcome.SKIPPED:
        results[name] = Result(Outcome.SKIPPED, 0.0)
    row = judged(results)[name]
    assert (row.result.outcome, row.is_wrong) == (outcome, True)


def test_a_test_that_nobody_expects_is_told():
    """A newer suite has more: they are to be put on the list, and not to be overlooked."""
    (newer, _) = LATER_TESTS
    assert judged(as_known() | passed(newer))[newer].is_wrong


def test_one_test_alone_leaves_the_others_out_without_blame():
    asked = "InferencePoolAccepted"
    others = {name: Result(Outcome.SKIPPED, 0.0) for name in TESTS if name != asked}
    assert not any(row.is_wrong for row in judged(others | passed(asked), asked=asked).values())
    assert judged(others, asked=asked)[asked].is_wrong


def test_a_test_that_the_suite_does_not_have_is_wrong():
    """Whoever has misspelt a name must not be told that all is well."""
    others = {name: Result(Outcome.SKIPPED, 0.0) for name in TESTS}
    row = judged(others, asked="InferencePoolAcepted")["InferencePoolAcepted"]
    assert (row.result.outcome, row.is_wrong) == (Outcome.NOT_RUN, True)
    assert "no such test" in row.note


@pytest.mark.parametrize(
    ("name", "word"),
    [("InferencePoolAcepted", "did you mean InferencePoolAccepted"), (LATER_TESTS[0], "--suite")],
)
def test_a_misspelt_test_is_told_before_anything_is_started(name, word):
    """A cluster and a mesh were started first, which took a minute."""
    check_test(TESTS[0])
    with pytest.raises(SuiteError, match=word):
        check_test(name)


def program(folder, script):
    path = folder / "suite"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_suite_of_the_callers_own_is_a_program_that_is_there(tmp_path):
    suite = program(tmp_path, "")
    out = tmp_path / "out"
    assert given_suite(suite, out) == suite
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(SuiteError, match="go test -c"):
            given_suite(missing, out)
    suite.chmod(0o644)
    with pytest.raises(SuiteError, match="is no program"):
        given_suite(suite, out)
    suite.chmod(0o755)
    with pytest.raises(SuiteError, match="move it"):
        given_suite(suite, tmp_path)


def test_a_suite_must_know_the_flags_that_it_is_run_with(tmp_path):
    """Each flag is given to it, and it has the one test that upstream's suite is."""
    check_suite(program(tmp_path, 'echo "$@" >&2; echo TestConformance'), ["-gateway-class=istio"])
    unknown = 'echo "flag provided but not defined: $2" >&2; exit 2'
    with pytest.raises(SuiteError, match="not defined: -gateway-class=istio"):
        check_suite(program(tmp_path, unknown), ["-gateway-class=istio"])
    with pytest.raises(SuiteError, match="no conformance suite"):
        check_suite(program(tmp_path, "echo TestAnother"), [])
    with pytest.raises(SuiteError, match="cannot be run"):
        check_suite(tmp_path / "none", [])


def report(*, passes=0, failures=(), skips=0):
    statistics = {"Passed": passes, "Failed": len(failures), "Skipped": skips}
    core = {"result": "failure", "statistics": statistics, "failedTests": list(failures)}
    return {"kind": "ConformanceReport", "profiles": [{"name": "Gateway", "core": core}]}


def test_upstreams_report_must_say_what_its_output_says():
    results = results_of(OUTPUT)
    (failure,) = KNOWN_FAILURES
    right = report(passes=1, failures=[failure], skips=1)
    assert report_troubles(right, results) == []
    assert report_troubles(None, results) == ["the suite has written no report"]
    assert len(report_troubles(report(passes=2, failures=[failure], skips=1), results)) == 1
    assert len(report_troubles(report(passes=1, failures=["Another"], skips=1), results)) == 1
    assert report_troubles({"profiles": []}, results)


def test_the_page_has_a_row_for_each_test_also_for_those_of_later_versions():
    rows = list(judged(as_known()).values())
    page = table(rows, later=LATER_TESTS, troubles=[])
    assert all(f"| {name} |" in page for name in (*TESTS, *LATER_TESTS))
    assert "12 tests: 11 passed, 1 failed." in page
    assert "Not as it should be" not in page
    assert "* a pod has ended" in table(rows, later=(), troubles=["a pod has ended"])
