"""`import atr` is cheap and silent, and no part of the demo waits for a network."""

import subprocess
import sys

NO_NETWORK = """
import socket
def refuse(*arguments, **keywords):
    raise AssertionError("a network call")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
"""


def python(code, **keywords):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **keywords)


def test_import_takes_under_two_seconds_beyond_torch_and_calls_nobody():
    code = (
        NO_NETWORK + "import time, torch\nbegan = time.perf_counter()\nimport atr\nprint(time.perf_counter() - began)"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2.0 and result.stderr == ""


def test_import_changes_nothing_global():
    code = (
        "import os, random, torch\nstate, env = random.getstate(), dict(os.environ)\nseed = torch.initial_seed()\n"
        "import atr\nassert random.getstate() == state and dict(os.environ) == env and torch.initial_seed() == seed\n"
        "import sys\nassert 'transformers' not in sys.modules and 'pytorch_lightning' not in sys.modules"
    )
    result = python(code)
    assert result.returncode == 0, result.stderr


def test_the_demo_makes_no_network_call(tmp_path):
    code = NO_NETWORK + (
        "from atr.config import compose_config\nfrom atr.experiment import train\n"
        f"train(compose_config(['run_dir={tmp_path}', 'trainer.max_epochs=1', 'trainer.limit_train_batches=1',"
        " 'data.num_workers=0', 'data.batch_size=8']))"
    )
    result = python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "metrics.json").is_file()
