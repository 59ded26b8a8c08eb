"""Stages A -> B -> C: who writes, and how a newer stage takes over or falls back.

What each one samples: trainer (a run's training, by stage), counted (A: a policy table over counts,
no network), steered (B: SAC over Lh and Lp, A's characters), voice (a trained run's student).
How one takes over: share (which requests go to the newer stage), serving (the folder whose log
holds every change of stage), guard (what a report's or the served answers' verdict changes).
"""
