"""Published figures of the same protocols, by column of the table.

References:
  FaceCycle (ICCV 2021), tables 1 to 3.
"""

# Accuracies in percent.
_ACCURACIES: dict[str, dict[str, float]] = {
    "fer2013": {
        "FaceCycle": 48.76,
        "FAb-Net": 46.98,
        "TCAE": 45.05,
        "temporal consistency (BMVC 2020)": 47.61,
    },
    "raf-db": {
        "FaceCycle": 71.01,
        "FAb-Net": 66.72,
        "TCAE": 65.32,
        "temporal consistency (BMVC 2020)": 58.86,
    },
    "lfw": {"FaceCycle": 73.72, "VGG-like": 71.48, "LBP": 56.90, "HoG": 62.73},
    "cplfw": {"FaceCycle": 58.52, "LBP": 51.50, "HoG": 51.73},
}

# Mean absolute errors of yaw, pitch and roll, degrees. The paper does not state whether
# the test set is filtered.
_POSE_ERRORS = {
    "FaceCycle": (11.70, 12.76, 12.94),
    "FAb-Net": (13.92, 13.25, 14.51),
    "TCAE": (21.75, 14.57, 14.83),
    "temporal consistency (BMVC 2020)": (22.06, 13.50, 15.14),
}

# Figures by task, method and column.
PUBLISHED: dict[str, dict[str, dict[str, float]]] = {
    task: {method: {"accuracy %": value} for method, value in rows.items()}
    for task, rows in _ACCURACIES.items()
} | {
    "pose": {
        method: dict(zip(("yaw °", "pitch °", "roll °"), errors, strict=True))
        for method, errors in _POSE_ERRORS.items()
    }
}
