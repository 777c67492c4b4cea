"""torch's group normalization, in the layout channels_last too."""

from __future__ import annotations

from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's, given x less its groups' means where channels lie innermost in memory.

    There torch takes the variance as mean square less squared mean, which cancels: at values 100 standard deviations
    from 0 the output is wrong by 0.1 %, at 10,000 it is noise. A shift of a whole group changes neither output nor
    gradient.
    """

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() == 4 and not input.is_contiguous():
            grouped = input.unflatten(1, (self.num_groups, -1))
            input = (grouped - grouped.detach().mean((2, 3, 4), keepdim=True)).flatten(1, 2)
        return super().forward(input)
