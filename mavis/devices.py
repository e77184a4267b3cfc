"""The devices that there are here."""


def check_device(name: str | None) -> None:
    """Raise ValueError, in one line, for a device that is not there; None is what torch finds.

    >>> check_device("cpu")
    """
    if name is None:
        return
    import torch

    try:
        torch.zeros(1, device=name).item()
    except Exception as error:  # the backends' errors have no common class
        there = ["cpu"]
        if torch.accelerator.is_available() and (kind := torch.accelerator.current_accelerator()):
            there += [kind.type]
            there += [f"{kind.type}:{at}" for at in range(torch.accelerator.device_count())]
        raise ValueError(
            f"device {name!r} is not available here; there are: {', '.join(there)}."
        ) from error
