"""Columns of the ``.csv`` tables, which are part of what users rely on: rename none, add at the end."""

IDENTITY = ("data", "setting", "model", "model_title", "family", "source", "track")
ACCURACY = (
    *IDENTITY,
    *("train_fraction", "n", "n_test", "n_seeds", "n_expected", "seeds", "mean"),
    *("std", "low", "high", "delta", "delta_low", "delta_high", "p"),
    *("p_holm", "n_paired", "state", "best", "bold", "top5", "macro_f1"),
    *("nll", "brier", "ece", "ece_scaled", "val_top1", "val_best_top1", "n_params"),
    *("forward_gmacs", "note", "run_ids", "ece_null", "ece_null_high", "ece_scaled_note", "delta_se"),
)
DATA_EFFICIENCY = (
    *IDENTITY,
    *("n_seeds", "n_expected", "seeds", "aulc", "aulc_std", "aulc_low", "aulc_high"),
    *(
        "aulc_delta",
        "aulc_delta_low",
        "aulc_delta_high",
        "multiplier",
        "multiplier_low",
        "multiplier_high",
        "multiplier_target",
    ),
    *("multiplier_ahead", "multiplier_text", "crossover", "crossover_low", "crossover_high", "crossover_leader", "note"),
    *("run_ids", "bound", "bound_ahead", "bound_n_ahead", "bound_n_behind", "bound_delta", "bound_low", "bound_high"),
)
COMPUTE = (
    *IDENTITY,
    *("train_fraction", "n", "n_seeds", "n_expected", "seeds", "n_params", "forward_gmacs"),
    *("train_pflops", "device_hours", "images_per_second", "peak_memory_bytes", "mfu", "energy_joules", "seconds_to_target"),
    *("mean", "note", "run_ids", "reached_target", "target_is_bound"),
)
DATASETS = (
    *IDENTITY,
    *("train_fraction", "n", "n_test", "n_seeds", "n_expected", "seeds", "mean"),
    *("std", "low", "high", "best", "bold", "note", "run_ids"),
    *("rank", "across_delta", "across_low", "across_high", "across_tau", "prediction_low", "prediction_high", "across_n"),
)
BUDGETS = (
    *("data", "setting", "model", "reference", "fraction", "n", "reference_fraction", "reference_n"),
    *("delta", "low", "high", "p"),
)
INTERACTIONS = (
    *("data", "setting", "model", "changed", "before", "after", "train_fraction", "gap_before", "gap_after"),
    *("change", "low", "high", "p"),
)
