"""Adam for arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Adam:
    """Values that go downhill: Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015.

    torch has it too, but loading torch and wrapping arrays for each of a few hundred steps costs more.

    Attributes:
        values: where they are now; a new array after every step.
    """

    def __init__(self, values: Floats) -> None:
        self.values = values
        self._steps = 0
        self._first, self._second = np.zeros_like(values), np.zeros_like(values)

    def move(self, slope: npt.NDArray[np.floating], rate: float) -> None:
        """One step.

        Args:
            slope: of what becomes less, of the values' shape.
            rate: about how far each value goes.
        """
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * slope
        self._second = 0.999 * self._second + 0.001 * slope**2
        first = self._first / (1 - 0.9**self._steps)
        second = self._second / (1 - 0.999**self._steps)
        self.values = (self.values - rate * first / (np.sqrt(second) + 1e-8)).astype(np.float32)
