"""The environment: one batched step, and what stands around it.

spec        what an actor sees, what a critic may see, actions, steps, the glossary
vocabulary  characters and ids             world      frozen tables of corpus, catalog, config
questions   what an actor sees of one      tables     answers and terms as arrays
mask        A(s) as packed bits            sketch     what lies further back than the history
reward      one function a term            kernel     the compiled step
core        the batched step               records    a finished episode as columns
derive      records in, findings out       lexical    gymnasium.Env
vector      gymnasium.vector.VectorEnv
"""
