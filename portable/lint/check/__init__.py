"""The kinds of check. A rule of ``conf/lint`` lists some, each with its words; ``kinds.KINDS`` names them.

Every kind is a frozen dataclass whose fields are the keys of the YAML, and ``find`` yields the places that
break the rule. Where two rules blame one place, the match that spells out more keeps it.
"""
