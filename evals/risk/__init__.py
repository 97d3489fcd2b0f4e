"""Risk control: which of a family of policies loses at most epsilon of accuracy, with probability 1 - delta.

The family is ordered from safest to cheapest before the data is seen (:mod:`.families`). Each member gets a
p-value of "its loss is above epsilon" (:mod:`.pvalues`) from the losses of independent units
(:mod:`.losses`), and they are tested in that order until one is not rejected (:mod:`.selection`; Learn then
Test, Angelopoulos et al. 2021, arXiv 2110.01052). :mod:`.calibrate` puts this together, :mod:`.halvings`
judges it on real recordings and :mod:`.honesty` on made-up worlds in which every certificate is wrong."""
