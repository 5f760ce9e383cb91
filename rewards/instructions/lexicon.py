"""Words that constraints name or ask about: stop words, pronouns, verbs, person names, countries, capitals."""

from __future__ import annotations


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


PRONOUNS = _set(
    "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers "
    "herself it its itself they them their theirs themselves themself"
)

CONJUNCTIONS = _set("and but for nor or so yet")

STOP_WORDS = PRONOUNS | _set(
    "a an the this that these those who whom which what whose am is are was were be been being have has had having do "
    "does did doing can could will would shall should may might must ought and but or nor for so yet if because as "
    "until while although though unless whether than then of at by with about against between into through during "
    "before after above below to from up down in out on off over under upon within without again further once here "
    "there when where why how all any both each few more most other some such no not only own same too very just now "
    "also s t d ll m o re ve y don ain aren couldn didn doesn hadn hasn haven isn ma mightn mustn needn shan shouldn "
    "wasn weren won wouldn don't aren't couldn't didn't doesn't hadn't hasn't haven't isn't mightn't mustn't needn't "
    "shan't shouldn't wasn't weren't won't wouldn't can't cannot i'm i've i'll i'd you're you've you'll you'd he's "
    "he'll he'd she's she'll she'd it's it'll it'd we're we've we'll we'd they're they've they'll they'd that's "
    "that'll there's here's what's who's let's should've"
)

# May stay in lowercase inside a title.
MINOR_WORDS = _set(
    "a an the and but or nor for so yet as at by in of off on per to up via if from into like near onto over than "
    "that till upon with vs v de la le von"
)

VERBS = _set(
    "abandon accept access accompany achieve acknowledge acquire act adapt add address adjust admire admit adopt "
    "advance advise affect afford agree aim align allow alter amplify analyze analyse announce answer anticipate "
    "appear apply appoint appreciate approach approve argue arise arrange arrive ask assemble assert assess assign "
    "assist assume assure attach attack attempt attend attract avoid awake bake balance bear beat become beg begin "
    "behave believe belong bend bet bind bite blend blow boil borrow bounce brainstorm break breathe bring broadcast "
    "build burn burst bury buy calculate call calm capture care carry carve cast catch cause celebrate challenge "
    "change charge chase check cheer chew choose chop claim clarify clean clear click climb cling close coach "
    "collaborate collect combine come comfort commit communicate compare compete complain complete compose compute "
    "concentrate conclude conduct confirm confront connect consider consist construct consult consume contact contain "
    "continue contrast contribute control convert convince cook cope copy correct count cover craft crawl create "
    "cross cry cultivate cut dance dare deal debate debug decide declare decline decorate defeat defend define delay "
    "delegate delete deliver demand demonstrate deny depend deploy derive describe deserve design destroy detect "
    "determine develop dig direct disagree disappear discover discuss display distinguish distribute dive divide "
    "document donate doubt draft drag draw dream dress drink drive drop dry earn eat edit educate elect eliminate "
    "embark embrace emerge emphasize employ empower enable encounter encourage end endure engage enhance enjoy ensure "
    "enter entertain envision escape establish estimate evaluate evolve examine exceed exchange exclude execute "
    "exercise exist expand expect experience experiment explain explore export expose express extend extract face "
    "facilitate fail fall fear feed feel fetch fight figure file fill filter find finish fish fit fix flee flip float "
    "flow fly focus fold follow force forget forgive form formulate foster free freeze gain gather generate get give "
    "glance go govern grab grasp greet grow guarantee guard guess guide handle hang happen harness hate head heal "
    "hear heat help hesitate hide highlight hike hire hit hold hope host hug hunt hurry hurt identify ignore "
    "illustrate imagine implement imply import improve include incorporate increase indicate influence inform inspect "
    "inspire install instruct integrate intend interact interpret introduce invent invest investigate invite involve "
    "iterate join journey judge jump justify keep kick kill kiss kneel knit knock know label land laugh launch lay "
    "lead lean leap learn leave lend let leverage lie lift light like limit link list listen live load locate lock "
    "look lose love lower maintain make manage map march mark master match matter maximize mean measure meet melt "
    "mention merge mind minimize miss mitigate mix model monitor motivate move multiply name narrate navigate need "
    "negotiate notice nurture obey observe obtain occur offer open operate optimize order organize organise outline "
    "overcome owe own pack paint participate pass pause pay perform permit persist persuade pick picture place plan "
    "plant play please point ponder pose possess practice practise praise pray predict prefer prepare present "
    "preserve press prevent print prioritize proceed process produce program promise promote propose protect prove "
    "provide publish pull pump purchase pursue push put query question quit quote race raise reach react read realize "
    "rebuild recall receive recognize recommend reconsider record recover reduce refer refine reflect refuse regard "
    "regret reject relate relax release rely remain remember remind remove render repair repeat replace reply report "
    "represent request require rescue research resolve respect respond rest restore result retain return reveal "
    "review revise reward rewrite ride ring rise risk roll rotate ruin rule run rush sail save say scale scan scream "
    "search secure see seek seem select sell send separate serve set settle sew shake shape share shift shine shoot "
    "shop shout show shrink shut simplify simulate sing sink sit sketch skip sleep slide slip smell smile solve sort "
    "sound speak specify spell spend spin split spot spread stand stare start state stay steal step stick stop store "
    "strengthen stress stretch strike strive structure struggle study submit subtract succeed suffer suggest suit "
    "summarize supply support suppose surprise surround survive suspect sweep swim swing switch synthesize tackle "
    "tailor take talk target taste teach tear tell tend test thank think thrive throw tie touch trace track trade "
    "train transfer transform translate travel treat trigger trust try tune turn type uncover understand undertake "
    "unite unleash unlock unravel unveil update upgrade upload use utilize validate value vary verify view visit "
    "visualize vote wait wake walk wander want warn wash waste watch water wear weave weigh welcome whisper win wipe "
    "wish witness wonder work worry wrap write yell yield zoom"
)
VERB_FORMS = _set(
    "am is are was were be been being do does did done has have had can could will would shall should may might must "
    "ought let's let arose ate awoke bear bore beaten became began begun bent bit blew born bought bound bred broke "
    "broken brought built burnt came caught chose chosen clung crept cut dealt dove drank drawn dreamt drew driven "
    "drove drunk dug eaten fallen fed fell felt fled flew flown forgave forgiven forgot forgotten fought found froze "
    "frozen gave given gone got gotten grew grown heard held hid hidden hung kept knelt knew known laid lain lay led "
    "left lent lit lost made meant met paid ran rang read risen rode rose said sang sank sat saw seen sent shaken "
    "shook shone shot shown shrank shut sold sought spent spoke spoken spun spread stole stood stuck struck strove "
    "sung swam swept swore swum swung taken taught thought threw thrown told took tore torn understood went woke "
    "woken won wore worn wove woven written wrote don't isn't aren't can't won't couldn't shouldn't wouldn't didn't "
    "doesn't"
)

PERSON_NAMES = _names(
    "Emma, Liam, Sophia, Jackson, Olivia, Noah, Ava, Lucas, Isabella, Mason, Mia, Ethan, Charlotte, Alexander, "
    "Amelia, Benjamin, Harper, Leo, Zoe, Daniel, Chloe, Samuel, Lily, Matthew, Grace, Owen, Abigail, Gabriel, Ella, "
    "Jacob, Scarlett, Nathan, Victoria, Elijah, Layla, Nicholas, Audrey, David, Hannah, Christopher, Penelope, "
    "Thomas, Nora, Andrew, Aria, Joseph, Claire, Ryan, Stella, Jonathan"
)

# One line a country, with the names that are accepted; without accents, in lowercase.
AFRICA = tuple(
    _names(line)
    for line in (
        "algeria",
        "angola",
        "benin",
        "botswana",
        "burkina faso",
        "burundi",
        "cabo verde, cape verde",
        "cameroon",
        "central african republic",
        "chad",
        "comoros",
        "democratic republic of the congo, dr congo, congo democratic republic of the, congo (democratic republic of the)",
        "republic of the congo, congo, congo republic, congo republic of the, congo (republic of the), congo-brazzaville",
        "cote d'ivoire, ivory coast",
        "djibouti",
        "egypt",
        "equatorial guinea",
        "eritrea",
        "eswatini, swaziland",
        "ethiopia",
        "gabon",
        "gambia",
        "ghana",
        "guinea",
        "guinea-bissau",
        "kenya",
        "lesotho",
        "liberia",
        "libya",
        "madagascar",
        "malawi",
        "mali",
        "mauritania",
        "mauritius",
        "morocco",
        "mozambique",
        "namibia",
        "niger",
        "nigeria",
        "rwanda",
        "sao tome and principe",
        "senegal",
        "seychelles",
        "sierra leone",
        "somalia",
        "south africa",
        "south sudan",
        "sudan",
        "tanzania",
        "togo",
        "tunisia",
        "uganda",
        "zambia",
        "zimbabwe",
    )
)

# European capitals north of 45 degrees, from north to south.
NORTHERN_CAPITALS = tuple(
    _names(line)
    for line in (
        "reykjavik",
        "helsinki",
        "oslo",
        "tallinn",
        "stockholm",
        "riga",
        "moscow",
        "copenhagen",
        "vilnius",
        "minsk",
        "dublin",
        "berlin",
        "amsterdam",
        "warsaw",
        "london",
        "brussels",
        "kyiv, kiev",
        "prague",
        "luxembourg, luxembourg city",
        "paris",
        "vienna",
        "bratislava",
        "budapest",
        "vaduz",
        "chisinau",
        "bern, berne",
        "ljubljana",
        "zagreb",
    )
)


def can_be_verb(word: str) -> bool:
    """Whether an English word can be a verb, in any form; of the commonest verbs only.

    >>> can_be_verb("Running"), can_be_verb("Table")
    (True, False)
    """
    word = word.casefold().replace("’", "'")
    if word in VERB_FORMS or word in VERBS:
        return True
    return any(stem in VERBS for ending in ("s", "es", "ies", "d", "ed", "ied", "ing") for stem in _stems(word, ending))


def _stems(word: str, ending: str) -> tuple[str, ...]:
    if not word.endswith(ending) or len(word) < len(ending) + 2:
        return ()
    stem = word[: -len(ending)]
    undoubled = stem[:-1] if stem[-1] == stem[-2:-1] else stem
    return (stem + "y",) if ending.startswith("ie") else (stem, undoubled, stem + "e")
