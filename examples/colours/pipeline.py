from fewstep.demo.pipeline import ClassConditionalPipeline

__all__ = ["ClassConditionalPipeline"]
