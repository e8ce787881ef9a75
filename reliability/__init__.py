"""Reliability that anyone can run: simulation of the core, interleaved commits, drills of the platform, their page.

simulation/    the producer, the follower and completeness on virtual time, from a seed (`make simulate`)
interleaving/  writers and readers of one lake in a seeded order, on a real catalog and real files
drills/        faults of a running platform at random points, from a seed (`make drill`)
results/       what all runs found, a line per run or fault; `docs/reliability.md` is generated from it
"""
