"""Everything that needs torch: loading, prompts, the attention probe, LoRA, answers.

Knows no storage: conversations come in as text and decoded images, numbers go out as arrays.
"""
