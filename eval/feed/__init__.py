"""Images on their way to a network: decoded beside it, copied while it works, quantised where it is; features on their way back."""
