"""The words of `attnc compile` about searches for formats of weights."""

BUDGET = 'With weights auto, what the cheapest formats must hold: "cosine>=0.99", "sqnr>=30" (dB), "accuracy_drop<=1" (points).'
POOL = "Compare only rows of the outputs where this input is not 0: their mean (mean:MASK), or the rows as they are (rows:MASK)."
SEARCH_HELP = (
    "\b\nBudgets, golden (integers) against float:\n"
    "  cosine         between the output vectors of a sample, the mean over the samples\n"
    "  sqnr           10 log10(sum float^2 / sum (golden - float)^2), over all samples\n"
    "  accuracy_drop  top-1 accuracy of float less golden's, in points; needs labels\n"
    "cosine and sqnr are those of the worst output, and must hold less two standard\n"
    "errors. They are measured on --heldout, or on every 4th sample of --calib, which\n"
    "then does not calibrate. The search goes on from OUTPUT.search when it is started\n"
    "again, and writes what it chose to attnc.yaml in the build: --config takes it.\n"
)
