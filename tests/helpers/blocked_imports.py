"""Programs that run as if some packages were not installed."""

import subprocess
import sys

_BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(f'{{name}} is blocked')
sys.meta_path.insert(0, Block())
"""


def run_without(blocked, code, *, cwd):
    """Runs a program in a process in which packages cannot be imported.

    Args:
      blocked: names of the packages, a tuple.
      code: the program.
      cwd: folder to run it in.

    Returns:
      The ended process, with its output as text.
    """
    program = _BLOCK.format(blocked=blocked) + code
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd
    )
