"""Words and patterns of cascadeflow's complexity rule, as data; :mod:`.cascadeflow` says where they are from.

A technical term counts for every domain that lists it.
"""

from __future__ import annotations

import re

from budgetctl.evals.bench.keywords import keywords

DOMAINS = {
    domain: keywords(listed)
    for domain, listed in {
        "physics": "bell inequality, bell theorem, bernoulli equation, boltzmann distribution, "
        "bose-einstein, boundary layer, brewster angle, carnot cycle, continuity equation, critical point, "
        "diffraction, dirac equation, double slit experiment, einstein field equations, electroweak theory, "
        "enthalpy, entropy, euler equations, event horizon, fermi-dirac, feynman diagrams, "
        "fresnel equations, gauge theory, general relativity, geodesic, gibbs free energy, "
        "gravitational waves, heisenberg uncertainty, higgs boson, higgs mechanism, incompressible flow, "
        "interference, klein-gordon, laminar flow, length contraction, lorentz transformation, mach number, "
        "minkowski space, navier stokes, navier-stokes equations, partition function, pauli exclusion, "
        "phase transition, planck constant, polarization, qcd, qed, quantum chromodynamics, "
        "quantum decoherence, quantum electrodynamics, quantum entanglement, quantum superposition, "
        "quantum tunneling, renormalization, reynolds number, schrodinger equation, schrödinger equation, "
        "schwarzschild metric, snell law, spacetime curvature, special relativity, standard model, "
        "stokes flow, streamline, strong force, symmetry breaking, thermodynamic equilibrium, time dilation, "
        "total internal reflection, turbulent flow, uncertainty principle, viscosity, vorticity, "
        "wave function collapse, weak interaction, zero-point energy",
        "mathematics": "analytic continuation, axiom of choice, banach space, boundary value problem, "
        "cantor set, cauchy sequence, characteristic equation, church-turing thesis, compactness, "
        "connectedness, continuum hypothesis, contour integration, diophantine equation, dirichlet problem, "
        "eigenvalue problem, elliptic curve, fermat last theorem, field theory, fourier transform, "
        "fundamental group, galois theory, goedel incompleteness, goldbach conjecture, green function, "
        "group theory, gödel incompleteness, gödel theorem, halting problem, hausdorff space, hilbert space, "
        "homeomorphism, homomorphism, homotopy, incompleteness theorem, initial value problem, isomorphism, "
        "kernel, laplace transform, laurent series, lebesgue integral, lie algebra, lie group, manifold, "
        "metric space, modular arithmetic, ode, ordinary differential equation, "
        "partial differential equation, pde, peano axioms, prime number theorem, quotient group, "
        "representation theory, residue theorem, riemann hypothesis, riemann zeta function, ring theory, "
        "russell paradox, sturm-liouville, sylow theorem, taylor series, topological space, twin prime, "
        "zermelo-fraenkel",
        "computer science": "amortized analysis, attention mechanism, backpropagation, backtracking, "
        "bellman-ford, big o notation, branch and bound, category theory, computational complexity, "
        "context-free grammar, convolutional neural network, cross-validation, decidability, deep learning, "
        "dijkstra algorithm, divide and conquer, dynamic programming, finite state machine, floyd-warshall, "
        "formal language, gradient descent, greedy algorithm, kruskal algorithm, lambda calculus, "
        "neural network, np-complete, np-hard, overfitting, polynomial time, prim algorithm, "
        "pushdown automaton, q-learning, recurrent neural network, reducibility, regular expression, "
        "regularization, reinforcement learning, space complexity, time complexity, topological sort, "
        "transformer, turing machine, type theory",
        "engineering": "bode plot, cfd, computational fluid dynamics, control theory, "
        "digital signal processing, dsp, fea, feedback loop, finite element analysis, fourier analysis, "
        "frequency response, laplace domain, nyquist plot, pid controller, sampling theorem, "
        "signal processing, transfer function, wavelet transform",
        "chemistry": "density functional theory, dft, electronegativity, hartree-fock, hybridization, "
        "molecular dynamics, molecular orbital, periodic table trends, quantum chemistry, "
        "schrodinger equation, thermodynamics, valence bond theory",
        "biology": "crispr, dna replication, evolution, gene expression, genomics, metabolomics, "
        "natural selection, phylogenetics, proteomics, systems biology, transcription, translation",
    }.items()
}

MODERATE = keywords(
    "advantages, benefits, cause, compare, connection, cons, contrast, correlation, describe in detail, "
    "difference between, disadvantages, distinguish, drawbacks, effect, how do, how does, impact, outline, "
    "procedure, process, pros, pros and cons, relationship, steps, summarize, versus, vs, vs., why do, "
    "why does"
)
COMPARISONS = keywords("compare, contrast, versus, vs, difference between, distinguish")
HARD = keywords(
    "analysis, analyze, appraise, approach, argue, argument, assess, assessment, comprehensive, "
    "consequences, consolidate, critical, critically, critique, evaluate, examine, extensive, framework, "
    "hypothesis, implications, in-depth, integrate, investigate, justify, methodology, ramifications, "
    "synthesize, theoretical, theory, thorough"
)
EXPERT = keywords(
    "algorithm, algorithmic, architecture, best practice, best practices, build, create, design pattern, "
    "develop, distributed, distributed tracing, enterprise, implement, implementation, microservices, "
    "optimization, optimize, performance, production, production-ready, refactor, refactoring, scalability, "
    "scalable, scale, system design, theorem, theorems"
)
EVERYDAY = keywords(
    "acqua, bird, black, blue, cat, ciel, cielo, color, colore, colour, couleur, dog, eau, farbe, fish, "
    "green, himmel, luna, lune, mond, moon, red, sky, sole, soleil, sonne, sun, wasser, water, white, yellow"
)
"""Words of small talk in several languages; a few of them make any text trivial."""

TRIVIAL = re.compile(
    r"(?:what(?:\s+i|'?)s|calculate|compute|solve)\s+\d+\s*[-+*/]\s*\d+"
    r"|(?:capital|population|currency|language)\s+of\s+\w"
    r"|^(?:hi|hello|hey|thanks|thank\s+you)[.!?]*$"
)
MATHS = re.compile(
    "[\u0370-\u03ff\u2190-\u22ff\u2a00-\u2aff\U0001d400-\U0001d7ff\xac\xb1\xd7\xf7\u27f9\u27fa]"
    r"|\\(?:int|sum|prod|lim|partial|nabla|infty|alpha|beta|gamma|delta|epsilon|theta|lambda|pi|sigma|omega"
    r"|Delta|Omega)\b"
    r"|\\(?:frac|sqrt|overline|hat|vec|mathbb|mathcal|mathfrak)\{"
    r"|\$\$|\\[\[(]|\\begin\{equation\}"
)
CODE = re.compile(r"\b(?:def|class|import|function)\s+\w|\bconst\s+\w+\s*=|=>|\{[\s\S]*\}|```")
CONDITION = re.compile(r"\b(?:if|when|unless|provided|assuming|given\s+that)\b")
REQUIREMENT = re.compile(r"\b(?:must|should|need\s+to|required|ensure|guarantee)\b")

SIGNALS = {
    kind: re.compile(rf"\b(?:{pattern})")
    for kind, pattern in {
        "proof": r"(?:prove|proof|derive|derivation|(?:demonstrate|show|verify|establish)\s+that"
        r"|by\s+(?:contradiction|induction)|qed)\b",
        "mathematics": r"(?:irrational|rational\b.*\bproof|sqrt|prime\b.*\binfinite|(?:con|di)verges?"
        r"|continuous\b.*\bdifferentiable|bijection|iff|if\s+and\s+only\s+if|necessary\s+and\s+sufficient)\b"
        r"|(?:iso|homo)morphi[sc]",
        "implementation": r"(?:from\s+scratch|production[\s-]ready|end[\s-]to[\s-]end|full[\s-]stack"
        r"|thread[\s-]safe|lock[\s-]free|wait[\s-]free|real[\s-]time\b.*\bsystem)\b",
        "expertise": r"(?:trade[\s-]offs?\s+between|when\s+would\s+you\s+(?:choose|prefer|use)"
        r"|compare\s+and\s+contrast\b.*\b(?:approaches|methods|algorithms)|state[\s-]of[\s-]the[\s-]art"
        r"|cutting[\s-]edge|novel\s+approach)\b",
        "synthesis": r"(?:combine\b.*\bwith\b.*\bto|integrate\b.*\binto|design\s+a\s+system|architect"
        r"|formulate|propose\s+a)\b",
    }.items()
}
"""Kinds of task that are taken to be hard whatever else the text holds."""

TOOL_MARKS = tuple(
    re.compile(pattern)
    for pattern in (
        r"you have access to.*(?:tool|function)",
        r"(?:available|following)\s+(?:tool|function)s?:",
        r"tool:\s*\w",
        r"function:\s*\w",
        r"parameters?:\s*[{\[]",
        r'"name"\s*:\s*"[^"]+"\s*,\s*"(?:description|parameters)"',
        r'"type"\s*:\s*"function"',
        r"respond\s+(?:with|in|using)\s+(?:the\s+)?(?:following\s+)?(?:json|format)",
        r"(?:call|use|invoke)\s+(?:the\s+)?(?:appropriate|correct|right)\s+(?:tool|function)",
        r"which\s+(?:tool|function)\s+(?:should|to)\s+(?:be\s+)?(?:use|call)",
        r"- \w+\s*\([^)]+\):\s*\w",
        r"\w\s*\((?:string|number|boolean|array|object|integer|float)",
    )
)
DOCUMENT = re.compile(
    r"\b(?:document|context|text|passage|article|content)\s*:"
    r"|\bgiven\s+(?:the\s+)?(?:following|above|below)\s+(?:text|document|passage|context)"
    r"|\bread\s+(?:the\s+)?(?:following|above|below)"
    r"|\bbased\s+on\s+(?:the\s+)?(?:following|above|text|document|passage|context)"
    r"|^(?:document|context|passage|text|article)\b"
    r"|\[(?:document|context|passage)\]",
    re.MULTILINE,
)
QUESTION = re.compile(
    r"\b(?:question|query|ask)\s*:|\banswer\s+(?:the\s+)?(?:following|this)\s+question"
    r"|\bwhat\s+(?:is|are|was|were|does|do|did)\b|\bwho\s+(?:is|are|was|were)\b"
    r"|\b(?:when|where)\s+(?:is|was|did|does)\b|\bhow\s+(?:many|much|does|did|is|are)\b"
    r"|\bwhich\s+(?:of|one)\b|\?\s*$",
    re.MULTILINE,
)
QUESTION_WORD = re.compile(r"\b(?:what|who|when|where|how|which|why)\b")
