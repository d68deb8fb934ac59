"""The ranges that parameters of several losses share."""


def require_positive(beta: float) -> None:
    """Refuse a `beta` that is not above 0.

    Raises:
        ValueError: It is not, or it is NaN.
    """
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta}")


def require_flip_share(label_smoothing: float) -> None:
    """Refuse a share of flipped labels outside [0, 0.5).

    Raises:
        ValueError: It is outside, or it is NaN.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must be at least 0 and below 0.5, got {label_smoothing}")


def require_not_negative(name: str, value: float) -> None:
    """Refuse a parameter that is below 0.

    Raises:
        ValueError: It is, or it is NaN.
    """
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
