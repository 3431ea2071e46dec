"""`--weights auto --budget ...`: the cheapest formats of weights that keep a model within a budget of accuracy.

compile.py      what `attnc compile` calls: the search, attnc.yaml, the build
budget.py       budgets, and how golden's outputs are scored against float
layers.py       the graph whose layers can take any of their formats
sensitivity.py  what each format of each layer costs in accuracy: an estimate
search.py       from estimates to a choice that was measured
state.py        what survives an interruption
"""
