r"""Penn Treebank tokens of captions, as the COCO caption evaluation takes them.

pycocoevalcap runs Stanford's PTBTokenizer (CoreNLP 3.4.1) with `-preserveLines -lowerCase` and leaves out
punctuation. The rules here are those of the Penn Treebank as the tokeniser's documentation describes them:
clitics are tokens ("it's" -> "it", "'s"), brackets have names ("(" -> "-lrb-"), currency signs are "$" or
"#", abbreviations keep their full stop, and of web addresses, dates, fractions, telephone numbers, hyphenated
words, tags, smileys and the like each is one token. Details that the documentation leaves open were found by
comparing the two on strings of every kind; docs/metrics.md lists what still differs.

At each place of a text, the rule wins that matches most, including what it looks ahead to; of equal ones, the
first.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

# --- characters -----------------------------------------------------------------------------------

# Numbers such as "½" and "²" are no digits, and for `re` they are letters.
_NUMERALS = "".join(
    re.escape(chr(code)) for code in range(0x80, 0x10000) if unicodedata.category(chr(code)) in ("No", "Nl")
)
# Combining marks of Latin, Hebrew, Arabic and Devanagari.
_MARKS = (
    "\u02c2-\u02c5\u02d2-\u02df\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u064b-\u065e\u0670"
    "\u06d6-\u06e4\u0900-\u0903\u093e-\u094e"
)
_LETTER = rf"(?:[^\W\d_{_NUMERALS}]|[{_MARKS}])"
_ALNUM = rf"(?:[^\W_{_NUMERALS}]|[{_MARKS}])"
_WORD = rf"{_ALNUM}*{_LETTER}{_ALNUM}*"
_QUOTE = "['’]"
_HYPHEN = "[-\u2010\u2011]"

# Signs that are tokens; all others, such as emoji, are left out without one.
_SIGN = re.compile(
    "[!-/:-@\\[-`{-~\x80\x91-\x94\x96\x97\xa1-\xa9\xab\xac\xae-\xb4\xb6-\xb9\xbb-\xbf\xd7\xf7"
    "\u037e\u0387\u0589\u05be\u060c\u061b\u061f\u066a\u066d\u06d4\u0964\u0965\u0e3f"
    "\u2013-\u2023\u2026\u2030-\u2042\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a0\u20a4\u20ac"
    "\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b"
    "\u2140-\u2144\u214a-\u214d\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)

_NAMES = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "€": "$", "\x80": "$", "¤": "$", "\u20a0": "$", "£": "#", "¢": "cents",
    "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3",
}  # fmt: skip
_PLAIN_QUOTES = {
    "‘": "`", "’": "'", "“": "``", "”": "''", "‛": "`", "‹": "`", "›": "'", "«": "``", "»": "''",
    "\x91": "`", "\x92": "'", "\x93": "``", "\x94": "''",
}  # fmt: skip

# What pycocoevalcap leaves out, besides the quotation marks and dashes that become one of these.
_PUNCTUATION = {
    "", "''", "'", "``", "`", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";", "\u2010", "\u2011",
    "\x96", "\x97", *_PLAIN_QUOTES,
}  # fmt: skip

# --- words with a full stop -----------------------------------------------------------------------

# Before more letters these end ("Jan.x" is "jan.", "x"); the titles after them don't ("Mr.x").
_ABBREVIATIONS = """
al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb fla fri
ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn plc ppte
pptes ppty pptys pte ptes pty ptys rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis
wisc
""".split()
_TITLES = """
adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft gen
gov govs hon insp invt jos lieut lt maj messrs mfg mlle mme mr mrs ms msgr mt mtg natl pfc ph pres prof profs
pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm wyo
""".split()
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop".split()
_CAPITALISED = (
    "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash ARK AZ DEL ILL LA MASS MISS ORE PA TEX WASH".split()
)

# After an initial, these begin a new sentence.
_SENTENCE_STARTS = """
A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Mr. Ms.
Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet
You
""".split()
_FILE_ENDINGS = """
bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py
sql tar txt wav x xml zip
""".split()


class _Rule(NamedTuple):
    """A rule of the tokeniser.

    Attributes:
        pattern: group 1 is the token; what follows the group is looked ahead to.
        rewrite: how the token is written; None if as it is.
    """

    pattern: re.Pattern[str]
    rewrite: Callable[[str], str] | None


def _one_of(words: list[str]) -> str:
    return "|".join(re.escape(word) for word in words)


def _straighten(token: str) -> str:
    return token.replace("’", "'")


def _read_entity(token: str) -> str:
    """Return the sign of an HTML entity; in capitals, those of quotation marks aren't read."""
    signs = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&nbsp;": "", "&mdash;": "--", "&ndash;": "--"}
    return {"&quot;": "''", "&apos;": "'"}.get(token) or signs.get(token.lower(), token)


def _read_ampersands(token: str) -> str:
    return re.sub("(?i:&amp;)", "&", token)


def _name_brackets(token: str) -> str:
    return "".join(_NAMES.get(character, character) for character in token)


@cache
def _rules() -> tuple[_Rule, ...]:
    """Compile the rules, in the order in which equal matches are decided."""
    rules: list[_Rule] = []

    def add(token: str, ahead: str = "", rewrite: Callable[[str], str] | None = None) -> None:
        rules.append(_Rule(re.compile(f"({token}){ahead}"), rewrite))

    # Words that are split: cannot, gonna, 'tis, don't, it's
    for first, second in (
        ("can", "not"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("gim", "me"), ("wan", "na"),
    ):  # fmt: skip
        add(rf"(?i:{first})", rf"(?i:{second})")
    add("(?i:'t)", "(?i:is|was)")
    add(rf"{_ALNUM}+?", "(?i:n['’`]t)")
    clitic = rf"(?i:{_QUOTE}(?:[msd]|re|ve|ll))"
    add(rf"{_ALNUM}+", rf"{clitic}[^A-Za-z]")

    # Clitics and words that begin or end with an apostrophe: n't, 's, 'em, rock 'n' roll, '90s, y'all, d'
    add("(?i:n['’`]t)", rewrite=_straighten)
    add(clitic, "[^A-Za-z]", rewrite=_straighten)
    add(rf"(?i:{_QUOTE}(?:em|n{_QUOTE}|till?|cause))")
    add("(?i:'n)", r"\s")
    add("(?i:’n)")
    add(rf"{_QUOTE}\d\d", r"\s")
    add(rf"{_QUOTE}[1-9]0[sS]")
    add(rf"(?i:y{_QUOTE})", rf"(?![dmstDMST]){_LETTER}")
    add(rf"(?i:(?:[djl]|ol){_QUOTE})")

    # Words, with full stops or other marks between their parts: example.com, U.S., Ph.D., Yahoo!x
    add(_WORD)
    add(rf"{_LETTER}{_ALNUM}*(?:\.{_LETTER}{_ALNUM}*)+")
    add(r"(?:[A-Za-z]\.)+[A-Za-z]?")
    add(r"(?i:(?:ph|ed)\.d\.)")
    dotted = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)+"
    add(dotted)

    # Names of files
    add(rf"{_ALNUM}+(?:\.{_ALNUM}+)*\.(?i:{_one_of(_FILE_ENDINGS)})", r"[\s.,?!]")

    # An initial before a new sentence, or a tag, has no full stop.
    name = "[A-Za-z][A-Za-z0-9:._-]*"
    attributes = rf"""(?:\ +(?:{name}(?:\ *=\ *(?:'[^'\n]*'|"[^"\n]*"))?))*"""
    tag = rf"<(?:[!?][A-Za-z-][^>\n]*|/?{name}{attributes}\ */?\ *)>"
    starts = _one_of(_SENTENCE_STARTS + [word.upper() for word in _SENTENCE_STARTS])
    add("[A-Za-z]", rf"\.\s+(?:{starts}|{tag})\s")

    # Abbreviations
    add(rf"(?i:(?:{_one_of(_ABBREVIATIONS)})\.)", "(?s:..)")
    add(rf"(?i:(?:{_one_of(_ABBREVIATIONS + _TITLES)})\.)")
    add(rf"(?:{_one_of(_CAPITALISED)})\.", "(?s:(?:..)?)")
    add(rf"(?i:(?:{_one_of(_BEFORE_NUMBERS)})\.)", r"[ \t\xa0]?\d")

    # Parts joined by slashes or hyphens, with a full stop before a comma: and/or, 7-eleven, U.S.-based
    part = rf"{_ALNUM}+(?:-{_LETTER}+)?"
    hyphenated = rf"{_ALNUM}(?:[.,]|{_ALNUM})*(?:{_HYPHEN}(?:(?:{_LETTER}\.){{2,}}|{_ALNUM}+))+"
    add(rf"{part}\\?/{part}(?:\\?/{part})?")
    add(rf"{_ALNUM}+(?:(?:{_HYPHEN}|_)(?:[dloDLO]['’`](?={_ALNUM}{{2}}))?{_ALNUM}+)+")
    add(hyphenated)
    add(rf"(?:{_ALNUM}+|{dotted}|{hyphenated})\.", "[,:;]")

    # Numbers, dates, fractions, telephone numbers
    add(r"[+-]?\d*(?:[.:,]\d+)+")
    add(r"[+-]?\d+")
    add(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}")
    add(r"(?:\d{1,4}[- \xa0])?\d{1,4}/\d{1,4}")
    area = r"(?:\(\d{2,3}\)[ \xa0]?|\+{0,2}(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0])"
    add(rf"{area}\d{{3,4}}[- \xa0]?\d{{3,5}}", rewrite=_name_brackets)

    # Apostrophes inside names: O'Brien, l'eau, qu'il, Hawai'i
    quote = "['‘’`]"
    add(rf"[dloDLO]{quote}{_ALNUM}{{2,}}(?:[-_]{_ALNUM}+)*")
    add(rf"[nA-HJ-XZ]{quote}{_LETTER}{_LETTER}+")
    add(rf"{_LETTER}+[aeiouyAEIOUY]{quote}[aeiouA-Z]{_LETTER}*")
    add(rf"(?i:c{_QUOTE}mon|c{_QUOTE}est|e{_QUOTE}er|s{_QUOTE}mores|ev{_QUOTE}ry|nor{_QUOTE}easter)")

    # Capitals with signs: AT&T, US$, C++, F#
    add("[A-Z]+(?:(?:&amp;|&AMP;|[&+])[A-Z]+)+", rewrite=_read_ampersands)
    add("[A-Z]+(?:[&+][A-Z]+)+\\.", "[,:;]")
    add(r"[A-Z]+\$")
    add(r"[Cc]\+\+|[CFcf]\#")

    # Addresses: @name, #topic, http://..., www..., example.com/path, me@example.com
    add(rf"@[A-Za-z_][A-Za-z_0-9]*|\#{_LETTER}+")
    inside = r'[^ \t\n\f\r"<>|(){}]'
    last = r'[^ \t\n\f\r"<>|.!?(){},-]'
    host = r"[^ \t\n\f\r\"`'<>|.!?,()&;$/_-][^ \t\n\f\r\"`'<>|.!?,()&;$/]*\."
    add(rf"(?i:https?)://{inside}+{last}")
    add(rf"(?i:www)\.(?:{host})+[A-Za-z]{{2,4}}(?:/{inside}+{last})?")
    add(rf"(?:[a-z]+\.)+(?:com|net|org|edu)/{inside}+{last}")
    local, domain = r'[^ \t\n\f\r"<>|(){}]', r'[^ \t\n\f\r"<>|(){}.]'
    add(rf"<?[A-Za-z0-9]{local}*@(?:{domain}+\.)*{domain}+>?")

    # Tags and entities: <br/>, &amp;
    add(tag)
    add(r"(?i:&(?:amp|lt|gt|quot|apos|nbsp|mdash|ndash);)", rewrite=_read_entity)
    add(r"&\#\d+;|(?i:&[aeiou](?:acute|grave|uml);)")

    # Smileys: :-), (^_^)
    round_brackets = str.maketrans({"(": "-lrb-", ")": "-rrb-"})
    add(
        r"[<>]?[:;=][-'*o]?[()\[\]{DdPpO\\|@]",
        "[^A-Za-z0-9]",
        rewrite=lambda token: token.translate(round_brackets),
    )
    add(
        r"\(['<>^=~x-](?:[-._](?<!--))?['<>^=~x`-](?<!.--)\)|\(--\)",
        rewrite=lambda token: token.translate(round_brackets),
    )
    add("['<>^=~x-]_['<>^=~x-]")

    # Punctuation, and runs of signs
    add("[!?]+")
    add(r"\.{3,}|…|\. \. \.", rewrite=lambda token: "...")
    add("-{2,}|[–—―]", rewrite=lambda token: "--")
    add("-|''|``")
    add(
        "[‘’“”‛‹›«»\x91-\x94]{2}",
        rewrite=lambda token: "".join(_PLAIN_QUOTES[mark] for mark in token),
    )
    add("[⁰-⁹¹²³]+|[₀-₉]+")
    add(r"_+|\*+|\\\*|@+|\#+|<<|>>|\S", rewrite=lambda token: _NAMES.get(token, token))

    return tuple(rules)


# A word of ASCII letters before a blank is a token, if it isn't split.
_PLAIN_WORD = re.compile(r"(?!(?:cannot|gonna|gotta|lemme|gimme|wanna)\b)[A-Za-z]+(?=[ \n])", re.IGNORECASE)


def tokenize_caption(text: str) -> list[str]:
    """Split a caption into tokens in lower case, without punctuation.

    Args:
        text: a caption; line breaks count as blanks.
    """
    # Soft hyphens don't show. Some rules look ahead by two characters.
    line = " ".join(text.replace("\xad", "").splitlines()) + "\n\n"

    tokens = []
    place = 0
    while place < len(line):
        if line[place].isspace():
            place += 1
            continue

        if plain := _PLAIN_WORD.match(line, place):
            tokens.append(plain[0].lower())
            place = plain.end()
            continue

        token, place = _next_token(line, place)
        if token not in _PUNCTUATION:
            tokens.append(token)

    # A fraction or telephone number with a blank inside is one token to the tokeniser, and several to CIDEr.
    return " ".join(tokens).split()


def _next_token(line: str, place: int) -> tuple[str, int]:
    """Return the token at a place, and the place behind it."""
    matches = [(rule.pattern.match(line, place), rule) for rule in _rules()]
    match, rule = max(
        ((match, rule) for match, rule in matches if match), key=lambda candidate: candidate[0].end()
    )
    token = match[1]

    # A sign that the tokeniser doesn't know leaves no token.
    if len(token) == 1 and not re.match(_ALNUM, token) and not _SIGN.match(token):
        return "", match.end(1)

    if rule.rewrite:
        token = rule.rewrite(token)
    return token.lower(), match.end(1)
