"""Muon for matrices and convolution kernels, AdamW for the rest, as one optimiser.

Muon (Jordan et al., 2024) replaces a matrix's momentum by the nearest orthogonal matrix, found with a few
Newton-Schulz iterations. On networks as small as these it needs clearly fewer steps than AdamW, and the
iterations cost little beside a step. Updates are scaled to the size of AdamW's (0.2 x sqrt(max(rows, columns)),
Moonlight 2025), so one learning rate serves both halves.
"""

from collections import defaultdict

import torch


def orthogonalise(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of a batch [n, rows, columns], to the accuracy training needs."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """`matrices` are updated by Muon, `others` by AdamW; both with learning rate `lr`."""

    def __init__(self, matrices, others, lr, momentum=0.95, betas=(0.9, 0.99), weight_decay=0.0):
        groups = [
            dict(params=list(matrices), muon=True, momentum=momentum, weight_decay=weight_decay),
            dict(params=list(others), muon=False, betas=betas, weight_decay=0.0),
        ]
        super().__init__([g for g in groups if g["params"]], dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
            else:
                self._adamw(group)

    def _muon(self, group):
        by_shape = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                by_shape[(p.shape[0], p.numel() // p.shape[0])].append(p)
        for (rows, columns), params in by_shape.items():
            moved = []
            for p in params:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                moved.append(p.grad.lerp(state["momentum"], group["momentum"]).reshape(rows, columns))
            update = orthogonalise(torch.stack(moved)) * (0.2 * max(rows, columns) ** 0.5)
            for p, u in zip(params, update):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(u.reshape(p.shape), alpha=-group["lr"])

    def _adamw(self, group):
        beta1, beta2 = group["betas"]
        params = [p for p in group["params"] if p.grad is not None]
        for p in params:
            state = self.state[p]
            if "first" not in state:
                state.update(first=torch.zeros_like(p), second=torch.zeros_like(p), count=0)
            state["count"] += 1
        firsts = [self.state[p]["first"] for p in params]
        seconds = [self.state[p]["second"] for p in params]
        grads = [p.grad for p in params]
        torch._foreach_lerp_(firsts, grads, 1 - beta1)
        torch._foreach_mul_(seconds, beta2)
        torch._foreach_addcmul_(seconds, grads, grads, 1 - beta2)
        for p, first, second in zip(params, firsts, seconds):
            count = self.state[p]["count"]
            scale = (second / (1 - beta2**count)).sqrt_().add_(1e-8)
            p.addcdiv_(first, scale, value=-group["lr"] / (1 - beta1**count))


def split_parameters(named, keep_out=()):
    """(matrices for Muon, the rest): vectors, tables and names containing a word of `keep_out` go to AdamW."""
    matrices, others = [], []
    for name, p in named:
        if not p.requires_grad:
            continue
        flat = p.dim() >= 2 and min(p.shape[0], p.numel() // p.shape[0]) >= 4
        (matrices if flat and not any(word in name for word in keep_out) else others).append(p)
    return matrices, others


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module, decay):
        self.decay = decay
        self.shadow = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module, step):
        decay = min(self.decay, (1 + step) / (10 + step))
        state = module.state_dict()
        torch._foreach_lerp_([self.shadow[k] for k in state], list(state.values()), 1 - decay)
