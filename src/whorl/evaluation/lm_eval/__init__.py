"""The lm-evaluation-harness on what whorl loads: `lm_eval --model whorl --model_args pretrained=DIR,encoding=hope`.

model.py     the model, for versions that find it by whorl's entry point `lm_eval.models`
__main__.py  lm-eval's own command with that model, for versions that look for no entry points (0.4.13 and before)
"""
