"""The registry of parts of one's own, and what is said of a file that cannot be used."""

import hashlib
import sys

import pytest

from primegpt import extend
from primegpt.config import ModelConfig, resolve
from primegpt.errors import ConfigError, UsageError
from primegpt.extend import ExtensionError, ExtensionFailure, told


@pytest.fixture
def write(tmp_path):
    """Write an extension; its path."""

    def written(code, name="mine.py"):
        path = tmp_path / name
        path.write_text(f"from primegpt import extend\n{code}", encoding="utf-8")
        return path

    return written


def refused(path) -> str:
    with pytest.raises(ExtensionError) as caught:
        extend.load(path)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), "mine.py")


@pytest.mark.parametrize("kind", extend.KINDS)
def test_every_kind_registers_and_is_found(kind, write):
    extension = extend.load(write(f"@extend.{kind}('mine')\ndef f(*given):\n    return given\n"))
    assert extend.find(kind, "mine", extension.sha256)(1, 2) == (1, 2)
    assert str(extension) == f"{kind} 'mine'"


def test_the_hash_is_of_the_file_and_loading_it_again_runs_nothing(write):
    path = write("import sys\nsys.runs = getattr(sys, 'runs', 0) + 1\nextend.measure('one')(len)\n")
    first = extend.load(path)
    assert extend.load(path) is first
    assert sys.runs == 1
    assert first.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_two_states_of_a_file_live_side_by_side(write):
    """A run that is open keeps the part it was trained with, whatever has been edited since."""
    old = extend.load(write("@extend.measure('loss')\ndef loss(run):\n    return 1\n"))
    new = extend.load(write("@extend.measure('loss')\ndef loss(run):\n    return 2\n"))
    assert extend.find("measure", "loss", old.sha256)(None) == 1
    assert extend.find("measure", "loss", new.sha256)(None) == 2
    assert extend.find("measure", "loss")(None) == 2  # the last one, where none is asked for


def test_a_notebook_may_register_anew():
    extend.measure("in_a_cell")(len)
    extend.measure("in_a_cell")(sum)
    assert extend.find("measure", "in_a_cell") is sum


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "@extend.norm('my norm')\nclass A: ...\n",
            "mine.py:2: norm 'my norm': no part can be called so; take letters",
        ),
        ("@extend.mlp('swiglu')\nclass A: ...\n", "mine.py:2: mlp 'swiglu' is built in; take another name"),
        ("extend.norm('a')(int)\nextend.norm('a')(int)\n", "mine.py:3: norm 'a' is registered twice; take another"),
        ("extend.norm('a')(3)\n", "mine.py:2: norm 'a' is neither a class nor a function; decorate one"),
        ("\n1 / 0\n", "mine.py:3: ZeroDivisionError: division by zero; it is code of your own"),
        ("raise SystemExit(3)\n", "mine.py:2: SystemExit: 3; it is code"),
        ("import no_such_module\n", "mine.py:2: ModuleNotFoundError: No module named 'no_such_module'; it is"),
        ("def f(:\n", "mine.py:2: SyntaxError: invalid syntax; it is code"),
        ("\0", "mine.py: SyntaxError: source code string cannot contain null bytes; it is code"),
        ("x = 1\n", "mine.py registers nothing; decorate a class or a function: @extend.attention, "),
    ],
    ids=lambda value: None,
)
def test_a_bad_file_is_one_line(code, said, write):
    message = refused(write(code))
    assert message.startswith(said), message
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path):
    assert (
        refused(tmp_path / "mine.py")
        == "extension mine.py: No such file or directory; name a Python file with parts of your own"
    )


def test_a_file_that_fails_leaves_nothing_behind(write):
    refused(write("extend.measure('left')(len)\n1 / 0\n"))
    with pytest.raises(UsageError, match="there is no measure 'left'"):
        extend.find("measure", "left")


def test_a_name_that_is_not_registered_gets_the_nearest():
    extend.measure("bits_a_line")(len)
    with pytest.raises(UsageError, match="there is no measure 'bits_a_lin'; did you mean 'bits_a_line'"):
        extend.find("measure", "bits_a_lin")
    with pytest.raises(UsageError, match="there is no kind of part 'norms'; did you mean 'norm'"):
        extend.find("norms", "a")


def test_the_innermost_line_of_the_file_and_the_part_are_named(write):
    """Not the line of ours that called it, nor the one of a library that it called."""
    code = "import json\n@extend.measure('fails')\ndef f(run):\n    return json.loads('{')\n"
    extension = extend.load(write(code))
    with pytest.raises(ExtensionFailure) as caught, told(extension, running=True):
        extension.find("measure", "fails")(None)
    assert caught.value.exit_code == 1
    assert str(caught.value).startswith(
        f"{extension.path}:5, measure 'fails': JSONDecodeError: Expecting property name"
    )


def test_a_signal_that_comes_while_it_runs_is_not_its_fault(write):
    """SIGTERM becomes SystemExit wherever the program stands, and keeps its exit code."""
    extension = extend.load(write("@extend.measure('calls')\ndef f(handler):\n    handler()\n"))

    def handler():
        raise SystemExit(143)

    with pytest.raises(SystemExit), told(extension):
        extension.find("measure", "calls")(handler)


def test_errors_that_are_not_the_extensions_pass():
    with pytest.raises(ZeroDivisionError), told():
        divmod(1, 0)


# ---- Named in the configuration


def test_a_name_that_is_not_built_in_needs_an_extension():
    with pytest.raises(ConfigError) as caught:
        resolve({"model": {"norm": "rmsnrm"}})
    assert str(caught.value) == (
        "model.norm = 'rmsnrm' is not built in; did you mean 'rmsnorm'?; a part of your own needs extension = 'FILE.py'"
    )
    assert resolve({"model": {"norm": "dyt"}, "extension": "mine.py"}).own == {"model.norm": "dyt"}


def test_the_configuration_alone_runs_nothing(tmp_path):
    config = resolve({"model": {"norm": "dyt"}, "extension": str(tmp_path / "no such file.py")})
    assert config.with_values(train={"seed": 2}).model.norm == "dyt"


def test_a_part_that_the_file_does_not_have(write):
    extension = extend.load(write("extend.norm('dyt')(len)\n"))
    config = resolve({"model": {"norm": "dty"}, "train": {"optimizer": "adamw"}, "extension": str(extension.path)})
    with pytest.raises(ExtensionError, match="registers no norm 'dty', but norm 'dyt'; did you mean 'dyt'"):
        extend.require_names(config, extension)


def test_what_is_own_by_name():
    config = ModelConfig(norm="dyt", attention="mine")
    assert [config.own_kind(name) for name in ("h.0.ln_1.gain", "ln_f.bias", "h.3.attn.c_proj.weight")] == [
        *("norm", "norm", "attention"),
    ]
    assert config.own_kind("h.0.mlp.c_fc.weight") is None
    assert config.own_kind("wte.weight") is None
