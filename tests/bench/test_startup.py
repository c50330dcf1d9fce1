"""Start-up times: which commands are timed, and beside what."""

from primegpt.bench import startup


def test_each_table_begins_with_ours(monkeypatch):
    timed = []

    def milliseconds(command):
        timed.append(command[1:])
        return 100.0 if "primegpt" in command else 50.0

    monkeypatch.setattr(startup, "milliseconds_of", milliseconds)
    monkeypatch.setattr(startup, "milliseconds_to_output", milliseconds)
    monkeypatch.setattr(startup, "missing", lambda module: f"no {module}")
    found = startup.bench_startup(turns=2)
    assert [c.results[0].name.split(",")[0] for c in found] == [
        "primegpt --help",
        "import primegpt",
        "primegpt generate",
    ]
    assert all(comparison.less_is_better and comparison.unit == "ms" for comparison in found)
    assert found[0].ratio(found[0].results[1]) == 0.5
    assert found[1].results[2].absent == "no transformers"
    for command in (["-m", "primegpt", "--help"], ["-c", "pass"], ["-c", "import primegpt"], ["-c", "import torch"]):
        assert timed.count(command) >= 2  # turns
    generate = next(command for command in timed if "generate" in command)
    assert generate[-2:] == ["--max-new-tokens", "8"]
