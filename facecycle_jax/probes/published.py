"""Published figures of the same protocols, in percent, to stand beside one's own.

References:
  FaceCycle (ICCV 2021), tables 1 to 3.
"""

# task: {method: accuracy in percent}
PUBLISHED: dict[str, dict[str, float]] = {
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
