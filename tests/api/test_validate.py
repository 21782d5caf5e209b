"""Job files: every mistake at once, each with its place, its field and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from photon.api.document import JobFileError
from photon.api.training import Schedule
from photon.api.validate import closest, load_job, model_at, parse_job

GOOD = """\
apiVersion: photon.dev/v1alpha1
kind: FederatedTrainingJob
metadata:
  name: test
spec:
  model:
    preset: llama-1m
  rounds: 3
  local:
    steps: 4
    learningRate: {max: 1e-3}
  participants:
    - name: north
      worker: {data: {uri: data/north}}
    - name: south
      worker: {data: {uri: data/south}}
"""


def mistakes(text: str, *overrides: str) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        parse_job(text, "job.yaml", overrides=overrides)
    return [str(m) for m in caught.value.errors]


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_a_good_job_is_taken() -> None:
    job = parse_job(GOOD, "job.yaml")
    assert job.spec.rounds == 3
    assert [p.name for p in job.spec.participants] == ["north", "south"]


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "0.001", ".001", "1.0e-3"])
def test_a_float_may_be_written_as_people_write_it(number: str) -> None:
    job = parse_job(changed("1e-3", number), "job.yaml")
    assert job.spec.local.learning_rate.max == 0.001


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("steps: 4", "stepz: 4", "job.yaml:10: spec.local.stepz: unknown field; did you mean steps?"),
        (
            "learningRate: {max",
            "learning_rate: {max",
            "job.yaml:11: spec.local.learning_rate: unknown field; did you mean learningRate?",
        ),
        ("{max: 1e-3}", "{max: 11}", "job.yaml:11: spec.local.learningRate.max: must be at most 10.0 (is 11)"),
        ("{max: 1e-3}", "{max: 0}", "job.yaml:11: spec.local.learningRate.max: must be greater than 0.0 (is 0)"),
        (
            "{max: 1e-3}",
            "{schedule: cosine}",
            "job.yaml:11: spec.local.learningRate.schedule: must be one of Cosine, WSD, Constant "
            '(is "cosine"); did you mean Cosine?',
        ),
        ("rounds: 3", "rounds: 0", "job.yaml:8: spec.rounds: must be at least 1 (is 0)"),
        ("rounds: 3", 'rounds: "3"', 'job.yaml:8: spec.rounds: must be a whole number: remove the quotes (is "3")'),
        ("rounds: 3", "rounds: many", 'job.yaml:8: spec.rounds: must be a whole number (is "many")'),
        ("rounds: 3", "rounds: 2.5", "job.yaml:8: spec.rounds: must be a whole number (is 2.5)"),
        ("  rounds: 3\n", "", "job.yaml:5: spec.rounds: is required"),
        (
            "steps: 4",
            "compile: yes",
            "job.yaml:10: spec.local.compile: yes is true or false to kubectl and text elsewhere: "
            "write true or false, or put it in quotes",
        ),
        (
            "name: test",
            "name: Test_1",
            "job.yaml:4: metadata.name: use lower-case letters, digits and '-', and begin and end with no '-' "
            '(is "Test_1")',
        ),
        ("data/south", "7", "job.yaml:16: spec.participants[1].worker.data.uri: must be text: put it in quotes (is 7)"),
        ("- name: south", "- name: north", "job.yaml:5: spec: participants: the name 'north' is given twice"),
        (
            "worker: {data: {uri: data/south}}",
            "remote: {}\n      worker: {data: {uri: data/south}}",
            "job.yaml:15: spec.participants[1]: a participant has either worker or remote",
        ),
        ("rounds: 3", "rounds: 3\n  rounds: 4", "job.yaml:9: spec.rounds: given twice (first in line 8); remove one"),
        (
            "kind: FederatedTrainingJob",
            "kind: Job",
            'job.yaml:2: kind: must be FederatedTrainingJob (is "Job")',
        ),
        (
            "rounds: 3",
            "rounds: 3\n  participation: {quorum: 3}",
            "job.yaml:5: spec: participation.quorum must not be larger than the number of participants (3 > 2)",
        ),
    ],
)
def test_each_mistake_names_line_field_and_fix(old: str, new: str, expected: str) -> None:
    assert mistakes(changed(old, new)) == [expected]


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    text = changed("steps: 4", "stepz: 4").replace("rounds: 3", "rounds: 0").replace("preset: llama-1m", "preset: gpt")
    found = mistakes(text)
    assert [m.split(":")[1] for m in found] == ["7", "8", "10"]


def test_rules_that_span_fields_are_checked_beside_mistakes_in_other_fields() -> None:
    found = mistakes(changed("steps: 4", "stepz: 4").replace("rounds: 3", "rounds: 3\n  participation: {quorum: 5}"))
    assert len(found) == 2
    assert "quorum" in found[0]
    assert "stepz" in found[1]


@pytest.mark.parametrize(
    "scalar",
    [
        "010",
        "-010",
        "08",
        "1_000",
        "0x10",
        "0o17",
        "0b11",
        "1_0.5",
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        ".inf",
        "-.Inf",
        ".nan",
    ],
)
def test_a_scalar_that_kubectl_reads_otherwise_is_refused_with_the_reason(scalar: str) -> None:
    (found,) = mistakes(changed("rounds: 3", f"rounds: 3\n  seedText: {scalar}"))[:1]
    assert found.startswith("job.yaml:9: spec.seedText: ")
    assert scalar in found
    assert "kubectl" in found or "JSON" in found


def test_in_quotes_it_is_text_for_both() -> None:
    job = parse_job(changed("name: north", "name: 'on'").replace("name: south", 'name: "0123"'), "job.yaml")
    assert [p.name for p in job.spec.participants] == ["on", "0123"]


def test_a_field_whose_name_kubectl_reads_otherwise_is_refused() -> None:
    found = mistakes(changed("{data: {uri: data/north}}", "{data: {uri: data/north}, nodeSelector: {on: x}}"))
    assert any("the field on is true or false to kubectl" in one for one in found)


class TestStructureIsReadAsKubectlReadsIt:
    def test_anchors_and_merge_keys(self) -> None:
        text = changed("{max: 1e-3}", "&rate {max: 1e-3, warmupSteps: 5}") + ("  evaluation: {everyRounds: 1}\n")
        text = text.replace("steps: 4", "<<: {batchSize: 8, steps: 9}\n    steps: 4")
        job = parse_job(text, "job.yaml")
        assert (job.spec.local.steps, job.spec.local.batch_size) == (4, 8)

    def test_the_first_of_several_bases_wins(self) -> None:
        text = changed("steps: 4", "<<: [{steps: 7}, {steps: 8, batchSize: 2}]")
        job = parse_job(text, "job.yaml")
        assert (job.spec.local.steps, job.spec.local.batch_size) == (7, 2)

    def test_a_merge_key_needs_a_mapping(self) -> None:
        assert any("<< needs a mapping" in one for one in mistakes(changed("steps: 4", "<<: 3\n    steps: 4")))

    def test_a_mistake_in_a_base_is_shown_where_it_was_made(self) -> None:
        found = mistakes(changed("steps: 4", "<<: {stepz: 7}\n    steps: 4"))
        assert found == ["job.yaml:10: spec.local.stepz: unknown field; did you mean steps?"]

    @pytest.mark.parametrize("end", ["---\n", "...\n", "---\n---\n", "--- # nothing\n"])
    def test_empty_documents_at_the_end_are_none(self, end: str) -> None:
        assert parse_job(GOOD + end, "job.yaml").spec.rounds == 3


class TestReadingIsBounded:
    def test_aliases_of_aliases(self) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        (found,) = mistakes("\n".join(lines))
        assert "aliases" in found
        assert "no job file" in found

    @pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, "a: " + "{a: " * 3000 + "1" + "}" * 3000])
    def test_nesting(self, text: str) -> None:
        (found,) = mistakes(text)
        assert "nests deeper than" in found

    def test_values(self) -> None:
        (found,) = mistakes("a: [" + "1," * 100_000 + "1]")
        assert "holds more than" in found


@pytest.mark.parametrize("escape", ["\\0", "\\ud800", "x\\udfffy"])
def test_text_that_is_no_text_names_line_and_field(escape: str) -> None:
    (found,) = mistakes(changed("uri: data/north", f'uri: "{escape}"'))[:1]
    assert found.startswith("job.yaml:14: spec.participants[0].worker.data.uri: holds ")


def test_a_number_that_is_larger_than_numbers_are_names_the_field() -> None:
    (found,) = mistakes(changed("1e-3", "1e999"))[:1]
    assert found.startswith("job.yaml:11: spec.local.learningRate.max: 1e999 is larger")


def test_an_unknown_field_that_resembles_nothing_lists_what_is_known() -> None:
    (found,) = mistakes(changed("preset: llama-1m", "preset: llama-1m\n    zzz: 1"))
    assert found.endswith("unknown field; known here: config, initFrom, preset, seed, tokenizer")


def test_broken_yaml_names_the_line() -> None:
    (found,) = mistakes(GOOD + "  x: [1, 2\n")
    assert found.startswith("job.yaml:1")
    assert "not valid YAML" in found


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n---\n"])
def test_an_empty_file_is_a_mistake(text: str) -> None:
    assert mistakes(text) == ["job.yaml: the file is empty"] or "one job" in mistakes(text)[0]


def test_several_documents_are_a_mistake() -> None:
    assert "holds 2 documents" in mistakes(GOOD + "---\n" + GOOD)[0]


def test_a_list_is_no_job() -> None:
    assert "a job is a mapping" in mistakes("- a\n")[0]


def test_an_anchor_within_itself_is_a_mistake() -> None:
    assert any("anchor" in m for m in mistakes(changed("model:", "model: &m\n    config: {again: *m}")))


def test_tags_are_refused() -> None:
    (found,) = mistakes(changed("rounds: 3", "rounds: !!python/object:os.system x"))[:1]
    assert "tag" in found


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("gs://b/x", "gs:// is not supported here"),
        ("https://h/x", "https:// is not supported here"),
        ("hf://datasets/x", "hf:// is not supported here"),
        ("S3://b/x", "write s3:// in lower case"),
        ("s3://", "names no bucket"),
        ("s3:///x", "names no bucket"),
    ],
)
def test_a_scheme_that_nothing_reads_is_refused_by_name(uri: str, expected: str) -> None:
    (found,) = mistakes(changed("data/north", uri))
    assert found.startswith("job.yaml:14: spec.participants[0].worker.data.uri: ")
    assert expected in found
    start = changed("preset: llama-1m", f"initFrom: {{uri: '{uri}'}}")
    assert expected in mistakes(start)[0]


class TestOverrides:
    def test_a_field_is_set_and_parsed_as_yaml(self) -> None:
        changes = ["spec.local.steps=16", "spec.local.learningRate.schedule=WSD", "spec.local.learningRate.max=3e-4"]
        job = parse_job(GOOD, "job.yaml", overrides=changes)
        assert job.spec.local.steps == 16
        assert job.spec.local.learning_rate.schedule is Schedule.WSD
        assert job.spec.local.learning_rate.max == 3e-4

    def test_what_is_not_there_is_made(self) -> None:
        assert parse_job(GOOD, "job.yaml", overrides=["spec.outer.type=Nesterov"]).spec.outer.type == "Nesterov"

    @pytest.mark.parametrize("entry", ["1", "south"])
    def test_an_entry_of_a_list_by_index_or_name(self, entry: str) -> None:
        job = parse_job(GOOD, "job.yaml", overrides=[f"spec.participants[{entry}].worker.resources.cpus=3"])
        worker = job.spec.participants[1].worker
        assert worker is not None
        assert worker.resources.cpus == 3

    def test_a_mistake_in_it_names_the_option(self) -> None:
        expected = "--set spec.local.stepz=3: spec.local.stepz: unknown field; did you mean steps?"
        assert mistakes(GOOD, "spec.local.stepz=3") == [expected]

    def test_a_value_that_is_refused_in_a_file_is_refused_here(self) -> None:
        (found,) = mistakes(GOOD, "spec.rounds=010")
        assert found.startswith("--set spec.rounds=010: spec.rounds: 010 is one number to kubectl")

    @pytest.mark.parametrize("wrong", ["steps", "=3", "spec.participants[west].name=x", "spec.rounds.x.y=1"])
    def test_one_that_leads_nowhere_is_a_mistake(self, wrong: str) -> None:
        assert mistakes(GOOD, wrong)[0].startswith(f"--set {wrong}")

    def test_it_can_mend_a_mistake_in_the_file(self) -> None:
        assert parse_job(changed("rounds: 3", "rounds: 0"), "job.yaml", overrides=["spec.rounds=5"]).spec.rounds == 5


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="cannot read the job file: no such file"):
        load_job(tmp_path / "none.yaml")


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="is a folder"):
        load_job(tmp_path)


def test_bytes_that_are_not_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(JobFileError, match="UTF-8"):
        load_job(tmp_path / "job.yaml")


@pytest.mark.parametrize("example", sorted(Path(__file__).parents[2].joinpath("examples").glob("*.yaml")))
def test_the_examples_are_valid(example: Path) -> None:
    load_job(example)


def test_closest_minds_neither_case_nor_underscores() -> None:
    assert closest("batch_size", ["batchSize", "steps"]) == "batchSize"
    assert closest("zzz", ["batchSize", "steps"]) is None


def test_model_at_walks_lists_and_options() -> None:
    found = model_at(("spec", "participants", 3, "worker", "data"))
    assert found is not None
    assert found.__name__ == "DataSpec"
    assert model_at(("spec", "nothing", "here")) is None


def test_misspelled_fields_of_pods_are_found_before_a_cluster_finds_them(tmp_path: Path) -> None:
    text = GOOD.replace(
        "      worker: {data: {uri: data/south}}\n",
        """      worker:
        data: {uri: data/south}
        tolerations:
          - {key: gpu, operater: Exists}
        podTemplatePatch:
          spec:
            nodeSelectr: {pool: gpu}
            containers:
              - name: worker
                $patch: merge
                resources: {limits: {nvidia.com/gpu: 1, memory: 8Gi}}
                securityContext: {capabilitys: {drop: [ALL]}}
                env: {NAME: value}
                livenessProbe: null
""",
    )
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert load_job(path), "programs that are handed a job leave this to the cluster, which may be newer"
    with pytest.raises(JobFileError) as caught:
        load_job(path, check_pods=True)
    south = "spec.participants[1].worker"
    assert [str(error).removeprefix(f"{path}:") for error in caught.value.errors] == [
        f"19: {south}.tolerations[0].operater: unknown field; did you mean operator?",
        f"22: {south}.podTemplatePatch.spec.nodeSelectr: unknown field; did you mean nodeSelector?",
        f"27: {south}.podTemplatePatch.spec.containers[0].securityContext.capabilitys: "
        "unknown field; did you mean capabilities?",
        f"28: {south}.podTemplatePatch.spec.containers[0].env: must be a list: begin each entry with '- '",
    ]
