"""Torch's compiler is imported by what compiles, whole and once, and by nothing else."""

import subprocess
import sys

import pytest
from launching import ROOT

TRAINED = """
import sys
from hybrid_patch.config.before_torch import before_torch
before_torch()
import torch
module = torch.nn.Linear(3, 3)
optimizer = torch.optim.AdamW(module.parameters())
def step():
    optimizer.zero_grad()
    module(torch.ones(2, 3)).sum().backward()
    optimizer.step()
step()
import lightning_fabric
assert "sympy" not in sys.modules
"""
WHOLE = """
step()
compiler = sys.modules["torch._dynamo"]
import torch._dynamo.eval_frame as part
assert torch._dynamo is compiler and compiler.eval_frame is part and part.OptimizedModule is compiler.OptimizedModule
assert "sympy" in sys.modules
"""
COMPILED = {
    "a module": "assert isinstance(torch.compile(module, backend='eager')(torch.ones(2, 3)), torch.Tensor)",
    "a block in place": "module.compile(backend='eager'); module(torch.ones(2, 3))",
    "an attribute": "assert torch._dynamo.config.recompile_limit",
    "a name from a module of it": "from torch._dynamo.backends.registry import lookup_backend",
}


@pytest.mark.sample(1)
@pytest.mark.parametrize("how", COMPILED)
def test_the_compiler_comes_when_it_is_used(how: str) -> None:
    code = TRAINED + COMPILED[how] + WHOLE
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
