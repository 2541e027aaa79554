"""Roboflow's `/inference_pipelines/…`: workflows as input, results that clients poll."""
