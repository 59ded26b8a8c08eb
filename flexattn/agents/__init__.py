"""The student's decisions and how they are learned; nothing here writes a file but `checkpoint`.

Decided: decision (what a policy hands over), policy (the student, the teacher, noise), ongoing (an
answer that goes on), networks (actor and critics), masked and legal (distributions over A(s)).
Learned: losses (the formulas), soft (V and H in one sweep), sampled (two draws in their place),
twins, schedule, watch; sac (the learner over whole answers), cloning and batches (what it takes),
buffer (experience), checkpoint, ranks (several learners as one).
One head, flat states: discrete, mlp, dense (layers through oneDNN), row_adam.
Counted: counting and counting_kernel (stage A's characters), table (its policy), steering (stage
B), prior (counts under the network).
On one GPU: resident (the learner), stream (experience), trunks (networks), rows (legal rows).
"""
