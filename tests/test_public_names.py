"""What `import primegpt` offers, and what it costs."""

import subprocess
import sys
import time

import primegpt


def test_exported_names():
    assert set(primegpt.__all__) == {
        *("train", "finetune", "reinforce", "resume", "load", "runs", "Run"),
        *("GPT", "ModelConfig", "Config", "extend", "tokenizers"),
    }
    for name in primegpt.__all__:
        assert getattr(primegpt, name) is not None


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_does_not_import_torch():
    assert python("import primegpt, sys; print('torch' in sys.modules)").strip() == "False"


def test_help_is_instant_and_needs_neither_torch_nor_the_command_line_library():
    slow = "[module for module in ('torch', 'cyclopts') if module in sys.modules]"
    code = f"""
import sys
from primegpt.cli.main import main
try:
    main(['--help'])
except SystemExit as end:
    assert not end.code
print({slow})
"""
    assert python(code).strip().endswith("[]")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "primegpt", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3
