"""A result set without what no report shows, so that it is small enough to be committed. Pure.

A report has one round of each target over time, and the latencies of all rounds together. So one
trial keeps its series, and one has everybody's histogram; the report stays the same to the letter.
"""

import msgspec

from bench.results.comparison import setting_of, settings_of, targets_of
from bench.results.record import ResultSet, Trial
from bench.results.statistics import merged

from .plots import representative


def condensed(result: ResultSet) -> ResultSet:
    """The same figures and the same report in a fraction of the bytes."""
    kept: dict[int, Trial] = {}
    for setting in settings_of(result.trials):
        beside = [trial for trial in result.trials if setting_of(trial) == setting]
        for target in targets_of(beside):
            mine = [trial for trial in beside if trial.target == target]
            shown = representative(mine, target)
            histogram = merged(trial.histogram for trial in mine)
            for at, trial in enumerate(mine):
                series = trial.series if trial is shown else []
                kept[id(trial)] = msgspec.structs.replace(
                    trial, series=series, histogram=[] if at else histogram
                )
    return msgspec.structs.replace(result, trials=[kept[id(trial)] for trial in result.trials])
