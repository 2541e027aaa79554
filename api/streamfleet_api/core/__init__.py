"""The original's newer endpoints, `/inference_pipelines/…`: workflows in, results taken one by one."""
