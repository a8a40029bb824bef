"""The U-Net at 32 x 32 beside denoising-diffusion-pytorch's and diffusers', widths chosen for equal parameters.

All three get three levels of the same multiples (1, 2, 4), two residual blocks a level and attention at the lowest
resolution (denoising-diffusion-pytorch adds its linear attention above). Same batch, loss and optimiser for all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed import Case, Contender
from genmodels.diffusion.ddim import DDIM
from genmodels.nets.unet import UNet

MULTS, BATCH, T = (1, 2, 4), 8, 1000
SAMPLES, STEPS = 2, 50
# Multiples of 8 where the counts allow: 11.87 M, 11.85 M and 12.04 M parameters (ours - 0.2 % and + 1.4 %).
WIDTHS = {"ours": 64, "denoising-diffusion-pytorch": 70, "diffusers": 56}
Predict = Callable[[Tensor, Tensor], Tensor]


def networks() -> dict[str, tuple[nn.Module, Predict]]:
    """The contenders' networks and how each is called with (x_t, t)."""
    from denoising_diffusion_pytorch import Unet
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    ours = UNet((3, 32, 32), width=WIDTHS["ours"], mults=MULTS, num_res_blocks=2)
    lucid = Unet(dim=WIDTHS["denoising-diffusion-pytorch"], dim_mults=MULTS, channels=3, full_attn=(False, False, True))
    hugging = UNet2DModel(
        sample_size=32,
        block_out_channels=tuple(WIDTHS["diffusers"] * m for m in MULTS),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return {
        "ours": (ours, ours),
        "denoising-diffusion-pytorch": (lucid, lucid),
        "diffusers": (hugging, lambda x, t: hugging(x, t).sample),
    }


def parameters(net: nn.Module) -> int:
    """How many numbers the network holds."""
    return sum(p.numel() for p in net.parameters())


def train_step() -> dict[str, Contender]:
    """One step of AdamW on the mean square of noise minus prediction, each with the same batch."""
    x, noise, t = torch.randn(BATCH, 3, 32, 32), torch.randn(BATCH, 3, 32, 32), torch.randint(1, T, (BATCH,))

    def contender(net: nn.Module, predict: Predict) -> Contender:
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(predict(x, t), noise).backward()
            optimizer.step()

        return Contender(step, parameters(net))

    return {name: contender(*pair) for name, pair in networks().items()}


def ddim_steps() -> dict[str, Contender]:
    """Each with its own library's DDIM loop around its own network."""
    from denoising_diffusion_pytorch import GaussianDiffusion
    from diffusers import DDIMScheduler

    nets = networks()
    model = DDIM((3, 32, 32), num_steps=T, net=nets["ours"][0]).eval()
    lucid = GaussianDiffusion(
        nets["denoising-diffusion-pytorch"][0], image_size=32, timesteps=T, sampling_timesteps=STEPS
    )
    lucid.eval()
    unet = nets["diffusers"][0].eval()
    scheduler = DDIMScheduler(T, timestep_spacing="trailing")
    scheduler.set_timesteps(STEPS)

    @torch.no_grad()
    def pipeline() -> Tensor:
        x = torch.randn(SAMPLES, 3, 32, 32)
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        return x

    def theirs() -> Tensor:
        return lucid.ddim_sample((SAMPLES, 3, 32, 32))

    return {
        "ours": Contender(lambda: model.sample(SAMPLES, steps=STEPS), parameters(nets["ours"][0])),
        "denoising-diffusion-pytorch": Contender(theirs, parameters(nets["denoising-diffusion-pytorch"][0])),
        "diffusers": Contender(pipeline, parameters(unet)),
    }


CASES = [
    Case(f"U-Net 32 x 32, train step, batch {BATCH}", train_step, must=1.0, aim=0.8),
    Case(f"U-Net 32 x 32, {STEPS} DDIM steps, {SAMPLES} images", ddim_steps, must=1.0, aim=0.8),
]
