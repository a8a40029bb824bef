"""Faults in the shared floors: trainer, batches, files, data-parallel draws, data."""

from __future__ import annotations

from tests.mutations import Mutation

TRAINING, RUNS, DATA = "tests/core/test_training.py", "tests/core/test_runs.py", "tests/core/test_data.py"

MUTATIONS: list[Mutation] = [
    Mutation(
        "genmodels/training.py",
        "self.ema, [p.data for p in self.averaged], 1 - decay",
        "self.ema, [p.data for p in self.averaged], decay",
        f"{TRAINING}::test_ema_is_the_weighted_mean_of_the_path",
        "the average keeps the new weights instead of the old ones",
    ),
    Mutation(
        "genmodels/training.py",
        "return (step + 1) / self.warmup",
        "return step / self.warmup",
        f"{TRAINING}::test_schedules",
        "warm-up starts at 0: the first step is lost",
    ),
    Mutation(
        "genmodels/training.py",
        "optimizer.zero_grad(set_to_none=True)",
        "pass",
        f"{TRAINING}::test_gradients_do_not_pile_up",
        "gradients of earlier steps are never cleared",
    ),
    Mutation(
        "genmodels/training.py",
        "starts = (self.n - self.window + 1, (self.batch_size,))",
        "starts = (self.n - self.window, (self.batch_size,))",
        f"{TRAINING}::test_windows_of_text",
        "the last window of a text never comes up",
    ),
    Mutation(
        "genmodels/training.py",
        "generator=_generator(self.seed, epoch)",
        "generator=_generator(self.seed, 0)",
        f"{TRAINING}::test_epochs_differ",
        "each epoch has the same order",
    ),
    Mutation(
        "genmodels/training.py",
        "vectors = [p for p in parameters if p.ndim < 2]",
        "vectors = [p for p in parameters if p.ndim < 1]",
        f"{TRAINING}::test_vectors_are_trained",
        "biases are left out of the optimiser",
    ),
    Mutation(
        "genmodels/training.py",
        'torch.set_rng_state(state["rng"].cpu())',
        "pass",
        f"{RUNS}::test_stopped_and_resumed_draws_go_on",
        "a resumed run draws its noise anew",
    ),
    Mutation(
        "genmodels/runs.py",
        'if r["step"] <= trainer.step_number]',
        'if r["step"] <= trainer.step_number + 1]',
        f"{RUNS}::test_log_rows_ahead_of_the_state_come_once",
        "a log row that was written before the kill stands twice",
    ),
    Mutation(
        "genmodels/files.py",
        "    if digest(tensors) != expected:",
        "    if False:",
        f"{RUNS}::test_damaged_files_are_one_line",
        "altered weights are loaded without a word",
    ),
    Mutation(
        "genmodels/files.py",
        'map_location="cpu", weights_only=True',
        'map_location="cpu", weights_only=False',
        f"{RUNS}::test_nothing_that_is_loaded_can_run_code",
        "a forged state.pt runs code",
    ),
    Mutation(
        "genmodels/data/points.py",
        "- math.log(TWO_PI * sigma**2)",
        "- 0.5 * math.log(TWO_PI * sigma**2)",
        f"{DATA}::test_density_is_the_law_of_the_points",
        "the Gaussian's constant is that of one dimension",
    ),
    Mutation(
        "genmodels/data/images.py",
        "palette[colour[part]]",
        "palette[kind[part]]",
        f"{DATA}::test_digits_and_shapes",
        "shapes are painted by their form, not by their caption's colour",
    ),
    Mutation(
        "genmodels/measures.py",
        "return value >= bar if higher_is_better else value <= bar",
        "return not value > bar if not higher_is_better else not value < bar",
        "tests/core/test_tour.py::test_bars",
        "a figure that is not a number reaches every bar",
    ),
    Mutation(
        "genmodels/evaluation/frechet.py",
        "+ sigma_2.trace() - 2 * cross",
        "+ sigma_2.trace() - cross",
        "tests/core/test_tour.py::test_frechet_distance_between_gaussians",
        "the cross term counts once",
    ),
    Mutation(
        "genmodels/training.py",
        "self.base_lr[name] * self.settings.lr_factor(self.step_number)",
        "self.base_lr[name]",
        f"{TRAINING}::test_the_schedule_reaches_the_optimiser",
        "the schedule is computed, but not used",
    ),
]
