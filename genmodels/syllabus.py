"""Lectures to modules: the one place that knows the courses' order.

Course A is CS 5788 (Cornell Tech, spring 2026), course B is CS 598 (UIUC, fall 2021, by weeks). Packages are named by
topic, since lecture numbers move from year to year. The table holds the whole plan; what exists is looked up on disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genmodels.zoo import RECIPES


@dataclass(frozen=True)
class Lecture:
    """One row: `modules` are "package/module", existing or planned; `notebook` is a stem in notebooks/, or None while
    it is to come; `questions` are "set/question"."""

    lecture: str
    title: str
    modules: str
    notebook: str | None = None
    questions: tuple[str, ...] = ()


def _of(name: str, *ranges: str) -> tuple[str, ...]:
    """Questions by ranges of letters: _of("ps2", "1a-c", "3f") is ps2/1a, ps2/1b, ps2/1c, ps2/3f."""
    found = []
    for text in ranges:
        number, first, last = text[0], text[1], text[-1]
        found += [f"{name}/{number}{chr(c)}" for c in range(ord(first), ord(last) + 1)]
    return tuple(found)


LECTURES: tuple[Lecture, ...] = (
    Lecture("A1", "What a generative model is", ""),
    Lecture(
        "A2",
        "Maximum likelihood",
        "maximum_likelihood/gaussian maximum_likelihood/categorical maximum_likelihood/exponential_family",
        questions=_of("ps1", "1a-e"),
    ),
    Lecture(
        "A3",
        "Mixtures and variational inference",
        "mixtures/gmm mixtures/variational",
        notebook="lec03_mixtures",
        questions=_of("ps1", "2a-h", "3a-f"),
    ),
    Lecture(
        "A4",
        "Networks",
        "networks/backprop networks/convolution networks/image_translation",
        questions=_of("ps1", "4a-c"),
    ),
    Lecture(
        "A5",
        "Variational autoencoders",
        "latent/autoencoder latent/ppca latent/vae latent/beta_vae latent/conditional_vae latent/iwae "
        "latent/hierarchical_vae latent/vqvae",
        notebook="lec05_vae",
        questions=_of("ps2", "1a-h"),
    ),
    Lecture(
        "A6",
        "Normalising flows",
        "flows/nice flows/realnvp flows/glow flows/maf flows/iaf flows/spline flows/planar",
        questions=_of("ps2", "2a-g"),
    ),
    Lecture(
        "A7",
        "Generative adversarial networks",
        "gans/gan gans/wgan_gp gans/spectral_norm gans/mode_collapse",
        questions=_of("ps2", "3a-f"),
    ),
    Lecture("A8", "GANs for images", "gans/dcgan gans/conditional_gan gans/pix2pix gans/cyclegan gans/vqgan"),
    Lecture(
        "A9",
        "Energy-based models and score matching",
        "energy/langevin energy/ebm energy/rbm energy/partition energy/score_matching energy/ncsn energy/nce",
        questions=_of("ps3", "1a-e"),
    ),
    Lecture(
        "A10-A11",
        "Diffusion models",
        "diffusion/ddpm diffusion/ddim diffusion/learned_variance diffusion/score_sde diffusion/edm",
        notebook="lec10_diffusion",
        questions=_of("ps3", "2a-h", "3a"),
    ),
    Lecture(
        "A12",
        "Image manipulation",
        "diffusion/guidance diffusion/editing diffusion/inversion",
        questions=_of("ps3", "3b-d"),
    ),
    Lecture(
        "A13",
        "Flow matching",
        "flow_matching/flow_matching flow_matching/ot_cfm flow_matching/rectified_flow flow_matching/cnf",
        questions=_of("ps3", "4a-e"),
    ),
    Lecture(
        "A14",
        "Architectures and few-step models",
        "diffusion/dit diffusion/latent_diffusion flow_matching/consistency diffusion/progressive_distillation "
        "flow_matching/shortcut flow_matching/mean_flow",
        questions=_of("ps3", "5a-c"),
    ),
    Lecture(
        "A15",
        "Language models",
        "language/tokenizer language/ngram language/gpt language/sampling language/speculative language/jacobi "
        "language/maskgit",
        notebook="lec15_language_models",
        questions=_of("ps4", "1a-b", "2a-e", "3a-d"),
    ),
    Lecture(
        "A16",
        "Discrete diffusion",
        "discrete_diffusion/mlm discrete_diffusion/d3pm discrete_diffusion/mdlm discrete_diffusion/sedd "
        "discrete_diffusion/discrete_flow_matching discrete_diffusion/text_in_latent_space",
        questions=_of("ps4", "4a-e"),
    ),
    Lecture(
        "A17",
        "Downstream uses",
        "downstream/linear_probe downstream/mae downstream/clip downstream/zero_shot",
    ),
    Lecture("A18", "Scaling", "scaling/scaling_laws scaling/compute scaling/parallel"),
    Lecture("A19-A20", "Midterm", ""),
    Lecture(
        "A21",
        "Post-training",
        "post_training/sft post_training/lora post_training/reward_model post_training/ppo post_training/dpo "
        "post_training/grpo post_training/best_of_n post_training/instruct_image post_training/diffusion_dpo",
        questions=_of("ps4", "5a-f"),
    ),
    Lecture(
        "A22",
        "Evaluation",
        "evaluation/likelihood evaluation/frechet evaluation/kid evaluation/inception_score "
        "evaluation/precision_recall evaluation/mmd evaluation/c2st evaluation/classifier evaluation/memorisation "
        "evaluation/knn evaluation/modes evaluation/points evaluation/quadrature evaluation/text "
        "evaluation/bernoulli_mixture",
    ),
    Lecture(
        "A23",
        "Provenance",
        "provenance/detect_images provenance/detect_text provenance/attribution provenance/watermark_text "
        "provenance/watermark_image",
        questions=_of("ps4", "6a-b"),
    ),
    Lecture(
        "A24",
        "Interpretability",
        "interpretability/feature_visualization interpretability/saliency interpretability/influence "
        "interpretability/sparse_autoencoder interpretability/logit_lens interpretability/probing",
    ),
    Lecture(
        "B3-B4",
        "Autoregressive models",
        "autoregressive/nade autoregressive/made autoregressive/pixelcnn autoregressive/pixelrnn "
        "autoregressive/wavenet",
    ),
    Lecture(
        "B11-B12",
        "Neural differential equations",
        "dynamics/solvers dynamics/neural_ode dynamics/augmented_ode dynamics/latent_ode dynamics/neural_cde "
        "dynamics/neural_sde dynamics/hnn",
    ),
    Lecture("B13-B14", "Operators and physics", "operators/deeponet operators/fno operators/pinn operators/pino"),
)


def by_set(questions: Sequence[str]) -> dict[str, list[str]]:
    """Questions such as "ps1/2a" by problem set: {"ps1": ["2a", ...]}."""
    found: dict[str, list[str]] = {}
    for question in questions:
        name, _, id = question.partition("/")
        found.setdefault(name, []).append(id)
    return found


def markdown() -> str:
    """The table for the README: each lecture with links to its notebook, modules and questions, or "to come"."""
    lines = ["| lecture | notebook | modules | problem-set questions |", "|---|---|---|---|"]
    for row in table():
        notebook = f"[{row['notebook']}](notebooks/{row['notebook']}.ipynb)" if row["notebook"] else "to come"
        modules = [f"[{d.rpartition('.')[2]}]({d.replace('.', '/')}.py)" for d in row["modules"]]
        if row["to_come"]:
            modules.append("to come: " + ", ".join(m.partition("/")[2] for m in row["to_come"]))
        sets = by_set(row["questions"]).items()
        questions = [f"[{name}](problem_sets/{name}/{name}.ipynb): {', '.join(ids)}" for name, ids in sets]
        title = f"**{row['lecture']}** {row['title']}"
        lines.append(f"| {title} | {notebook} | {', '.join(modules) or '–'} | {'; '.join(questions) or 'to come'} |")
    return "\n".join(lines)


def table() -> list[dict[str, Any]]:
    """The rows as JSON: lecture, title, `modules` that exist, `models` (recipes that train), and what is `to_come`."""
    here = Path(__file__).parent
    by_module: dict[str, list[str]] = {}
    for name, recipe in RECIPES.items():
        by_module.setdefault(recipe.model.partition(":")[0], []).append(name)
    rows = []
    for row in LECTURES:
        modules = row.modules.split()
        here_now = [m for m in modules if (here / f"{m}.py").is_file()]
        dotted = ["genmodels." + m.replace("/", ".") for m in here_now]
        rows.append(
            {
                "lecture": row.lecture,
                "title": row.title,
                "modules": dotted,
                "models": [name for m in dotted for name in by_module.get(m, [])],
                "notebook": row.notebook,
                "questions": list(row.questions),
                "to_come": [m for m in modules if m not in here_now],
            }
        )
    return rows
