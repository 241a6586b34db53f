"""Which words does the simulated engine know, and with which of them does it write?"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ADJECTIVES = _words(
    """
    quiet steady bright careful plain simple early late narrow wide gentle sharp honest
    common rare warm cold heavy light patient sudden distant local shared open hidden
    """
)
NOUNS = _words(
    """
    river engine garden signal window harbor letter market forest station bridge mountain
    library machine answer question token stream queue cluster model router packet cache
    lantern compass orchard valley workshop island
    """
)
VERBS = _words(
    """
    follows carries answers reaches crosses measures repeats gathers keeps finds leaves
    meets opens closes returns watches builds moves holds shows
    """
)
LINKS = _words(
    """
    near beyond beside under over through behind before after without
    """
)

_COMMON = _words(
    """
    a about above again all also always am an and another any are around as ask at away back
    be because been being below best better between big both but by call can case change
    city code come could data day did different do does done down each end even ever every
    example explain fact few first for form found from full function get give go good great
    group had hand has have he hello help her here high him his home house how human i if
    important in into is it its just know language large last learn less let life like line
    list little live long look made make man many may me mean might more most much must my
    name need never new next no not note now number of off often old on once one only or
    order other our out own page part people place please point possible problem program
    public put quick read really right run said same say school second see seem sentence set
    she short should simulated small so some state still stop story such system take tell
    text than thank that the their them then there these they thing think this those three
    time to today together too tool try turn two type up us use user value very want was
    water way we weather well went were what when where which while who why will with word
    work world would write year yes you your assistant system hat brown fox jumps lazy dog
    """
)

WORDS: tuple[str, ...] = tuple(dict.fromkeys((*_COMMON, *ADJECTIVES, *NOUNS, *VERBS, *LINKS)))
"""Every whole word that is one token; its position fixes its token ids, so only ever append."""
