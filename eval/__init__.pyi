# The public names and their types. `__init__.py` reads this file: a name is imported when it is first asked for.
from fewstep.eval.compare.metric_curves import curve as curve
from fewstep.eval.extractors.base import Extractor as Extractor
from fewstep.eval.extractors.base import Function as Function
from fewstep.eval.extractors.extractor_entry import EXTRACTORS as EXTRACTORS
from fewstep.eval.extractors.extractor_entry import extractor as extractor
from fewstep.eval.extractors.extractor_entry import register_extractor as register_extractor
from fewstep.eval.extractors.inception import InceptionV3 as InceptionV3
from fewstep.eval.gap.gap_report import ScoreGap as ScoreGap
from fewstep.eval.gap.gap_report import score_gap as score_gap
from fewstep.eval.gaussian.features import Features as Features
from fewstep.eval.gaussian.frechet import frechet_distance as frechet_distance
from fewstep.eval.gaussian.statistics import FeatureStatistics as FeatureStatistics
from fewstep.eval.images.generated import Generated as Generated
from fewstep.eval.images.sources import image_set as image_set
from fewstep.eval.meter.meter import Meter as Meter
from fewstep.eval.metrics.registry import METRICS as METRICS
from fewstep.eval.metrics.registry import metric as metric
from fewstep.eval.passes.evaluation import evaluate as evaluate
from fewstep.eval.passes.evaluation import fid as fid
from fewstep.eval.passes.evaluation import score as score
from fewstep.eval.passes.evaluation import stats as stats
from fewstep.eval.report.curves import Curves as Curves
from fewstep.eval.report.evaluation_report import Report as Report
from fewstep.eval.report.result import Result as Result
from fewstep.eval.scores.score_entry import register_score as register_score
from fewstep.eval.shared_noise.pairs import paired as paired
from fewstep.eval.video.clips import Clips as Clips
from fewstep.eval.video.video_extractors import VideoFunction as VideoFunction

__all__ = [
    "fid",
    "evaluate",
    "score",
    "Meter",
    "stats",
    "Report",
    "Result",
    "frechet_distance",
    "FeatureStatistics",
    "Features",
    "InceptionV3",
    "Extractor",
    "Function",
    "VideoFunction",
    "Clips",
    "extractor",
    "register_extractor",
    "EXTRACTORS",
    "metric",
    "METRICS",
    "register_score",
    "image_set",
    "Generated",
    "paired",
    "curve",
    "Curves",
    "score_gap",
    "ScoreGap",
]
