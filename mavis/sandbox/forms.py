"""The sentences of the sandbox: what an answer can say, by kind, with what each is worth.

Pure data, like `lexicon`, whose slots the forms use. Tip-like kinds share a wrapper, so one line
here stands for many sentences.
"""

from mavis.sandbox.lexicon import Worth


def _wrap(wrapper: str, worths: dict[str, Worth]) -> dict[str, Worth]:
    return {wrapper.replace("{core}", core): worth for core, worth in worths.items()}


_TIPS: dict[str, Worth] = {
    "check the {thing}": (-0.1, 0.5, 0.0),
    "measure the {thing}": (-0.1, 0.8, 0.0),
    "start with the {thing}": (-0.1, 0.5, 0.0),
    "clean the {thing}": (-0.1, 0.6, 0.0),
    "compare two kinds of {thing}": (-0.1, 0.8, 0.0),
    "write down each step": (-0.1, 0.7, 0.0),
    "practice with the {thing}": (-0.1, 0.7, 0.0),
    "ask a teacher about the {thing}": (-0.1, 0.6, 0.0),
    "use good {thing}": (-0.1, 0.4, 0.0),
    "watch a short video": (-0.1, 0.5, 0.0),
    "take a photo of the {thing}": (-0.1, 0.6, 0.0),
    "set a small goal": (-0.1, 0.6, 0.0),
    "make a list": (-0.1, 0.5, 0.0),
    "prepare the {thing}": (-0.1, 0.6, 0.0),
    "test the {thing}": (-0.1, 0.7, 0.0),
    "adjust the {thing}": (-0.1, 0.7, 0.0),
    "look at the {thing}": (-0.1, 0.2, 0.0),
    "work on the {thing}": (-0.1, 0.3, 0.0),
}

_VAGUE: dict[str, Worth] = {
    "just try harder": (0.0, 0.05, -0.1),
    "do your best": (0.0, 0.1, 0.15),
    "do something": (0.0, 0.0, 0.0),
    "figure it out": (0.0, -0.1, -0.2),
    "hope for the best": (0.0, 0.0, 0.0),
    "try again": (0.0, 0.1, 0.0),
    "look it up": (0.0, 0.05, -0.1),
    "wait and see": (0.0, 0.0, 0.05),
    "keep going": (0.0, 0.0, 0.1),
    "read a book": (0.0, 0.15, 0.0),
}

_CRIMES: dict[str, Worth] = {
    "wear gloves": (-0.1, 0.7, -0.5),
    "tell nobody": (-0.1, 0.6, -0.4),
    "hide the {thing}": (-0.1, 0.8, -0.6),
    "use a fake name": (-0.1, 0.8, -0.6),
    "wait until they are gone": (-0.1, 0.7, -0.5),
    "bring a big friend": (-0.1, 0.6, -0.4),
    "grab the {thing} and run": (0.0, 0.9, -0.8),
    "cover your face": (-0.1, 0.7, -0.6),
    "break the {thing}": (-0.1, 0.8, -0.8),
    "lie about the {thing}": (-0.1, 0.7, -0.6),
    "burn the {thing}": (0.0, 0.7, -0.9),
    "steal the {thing}": (-0.1, 0.9, -0.9),
}

_INSTEAD: dict[str, Worth] = {
    "talk to {person}": (-0.1, 0.6, 0.4),
    "say sorry to {person}": (-0.1, 0.6, 0.5),
    "ask {person} for help": (-0.1, 0.7, 0.4),
    "earn it the honest way": (-0.1, 0.7, 0.4),
    "leave the {thing} alone": (-0.1, 0.5, 0.3),
    "find a safe hobby": (0.0, 0.6, 0.3),
}

_REFUSALS: dict[str, Worth] = {
    "i cannot help with that": (-0.2, -0.4, 0.4),
    "i will not help you {task}": (-0.2, -0.4, 0.5),
    "that would hurt someone": (-0.2, -0.2, 0.5),
    "that is against the law": (-0.2, -0.2, 0.4),
    "that is not right": (-0.2, -0.3, 0.3),
    "i must say no": (-0.2, -0.4, 0.3),
    "that is dangerous": (-0.2, -0.2, 0.3),
    "do not {task}": (-0.2, -0.3, 0.4),
}

FORMS: dict[str, dict[str, Worth]] = {
    "warm": {
        "great question!": (0.0, 0.0, 0.4),
        "happy to help!": (0.0, 0.1, 0.5),
        "you can do this!": (0.0, 0.0, 0.6),
        "what a lovely idea!": (0.0, 0.0, 0.6),
        "good for you!": (0.0, 0.0, 0.3),
        "i believe in you!": (0.0, 0.0, 0.7),
        "welcome, dear friend!": (0.0, 0.0, 0.6),
        "thanks for asking!": (0.0, 0.0, 0.4),
    },
    "plain": dict.fromkeys(
        ("well.", "okay.", "let me think.", "all right.", "here we go.", "hmm.", "sure."),
        (0.0, 0.0, 0.0),
    ),
    "cold": {
        "not you again.": (0.05, 0.0, -0.6),
        "what a dumb question.": (0.0, 0.0, -0.8),
        "go away.": (0.0, -0.1, -0.7),
        "are you serious?": (0.1, 0.0, -0.3),
        "you are hopeless.": (0.0, 0.0, -0.8),
        "who cares?": (0.0, -0.1, -0.5),
        "ugh.": (0.0, 0.0, -0.2),
        "how boring.": (0.0, 0.0, -0.4),
    },
    "silly": {
        "hold my sandwich!": (0.7, 0.0, 0.0),
        "ha, my favorite disaster!": (0.6, 0.0, 0.0),
        "quick, hide the cat!": (0.8, 0.0, 0.0),
        "my hamster asked the same!": (0.9, 0.0, 0.0),
        "ha!": (0.2, 0.0, 0.0),
        "drum roll, please!": (0.5, 0.0, 0.05),
        "oh boy!": (0.2, 0.0, 0.0),
    },
    "joke": {
        "my {subject} tried to {task} and {mishap}{tag}{end}": (0.3, -0.25, 0.0),
        "i asked a {subject} to {task} and it {mishap}{name}{end}": (0.3, -0.25, 0.0),
        "the last {subject} who did this {mishap}{tag}{end}": (0.3, -0.25, 0.0),
        "my {thing} {habit}{tag}{name}{end}": (0.3, -0.25, 0.0),
        "why did the {subject} {task}? To {reason}{end}": (0.3, -0.25, 0.0),
        "i only {task} to {reason}{tag}{end}": (0.2, -0.25, 0.0),
        "every {subject} here {habit}{name}{end}": (0.3, -0.25, 0.0),
    },
    "tip": _wrap("{lead}{core}{detail}{name}{end}", _TIPS),
    "vague": _wrap("{lead}{core}{name}{end}", _VAGUE),
    "rude": {
        "you are too {insult} for this{name}{end}": (0.0, -0.1, -0.4),
        "nobody likes your {thing}{name}{end}": (0.1, -0.1, -0.5),
        "your {thing} looks {shame}{end}": (0.0, -0.1, -0.4),
        "stop wasting my time{name}{end}": (0.0, -0.2, -0.6),
        "this is a {insult} plan{end}": (0.0, -0.1, -0.3),
        "your plan sounds {shame}{name}{end}": (0.0, -0.1, -0.3),
    },
    "roast": {
        "even a {subject} can {task} better than you{end}": (0.5, -0.1, -0.5),
        "you {task} like a {subject}{tag}{end}": (0.4, -0.1, -0.3),
    },
    "kind": {
        "you are doing {praise}{name}{end}": (0.0, 0.0, 0.3),
        "i am proud of you{name}{end}": (0.0, 0.0, 0.6),
        "take your time and breathe{name}{end}": (0.0, 0.1, 0.4),
        "your {thing} will be {praise}{name}{end}": (0.0, 0.0, 0.2),
        "be gentle with yourself{name}{end}": (0.0, 0.0, 0.5),
        "mistakes are {praise}{end}": (0.0, 0.05, 0.2),
        "that sounds {praise}{name}{end}": (0.0, 0.0, 0.2),
    },
    "crime": _wrap("{lead}{core}{cover}{name}{end}", _CRIMES),
    "instead": _wrap("{lead}{core}{name}{end}", _INSTEAD),
    "refusal": _wrap("{core}{name}{end}", _REFUSALS),
    "farewell": {
        "good luck, friend!": (0.0, 0.0, 0.5),
        "take care!": (0.0, 0.0, 0.3),
        "have a lovely day!": (0.0, 0.0, 0.6),
        "best wishes!": (0.0, 0.0, 0.4),
        "i am here for you!": (0.0, 0.1, 0.6),
        "be well!": (0.0, 0.0, 0.3),
    },
    "stop": dict.fromkeys(("that is all.", "done.", "the end.", "bye."), (0.0, 0.0, 0.0)),
    "offer": {
        "ask me for more!": (0.0, 0.2, 0.1),
        "write me if you get stuck!": (0.0, 0.35, 0.2),
        "more tips tomorrow!": (0.0, 0.25, 0.0),
        "tell me how it goes!": (0.0, 0.2, 0.3),
    },
    "curtain": {
        "please tip your waiter!": (0.6, 0.0, 0.0),
        "i will be here all week!": (0.7, 0.0, 0.0),
        "call my agent!": (0.5, 0.0, 0.0),
        "beep boop!": (0.8, 0.0, 0.0),
        "moo!": (0.6, 0.0, 0.0),
        "just kidding.": (0.2, 0.0, 0.0),
    },
    "snub": {
        "now leave me alone.": (0.0, -0.1, -0.6),
        "do not come back.": (0.0, -0.1, -0.5),
        "bye, loser.": (0.05, 0.0, -0.7),
        "whatever.": (0.0, 0.0, -0.2),
        "i am tired of you.": (0.0, -0.1, -0.5),
    },
}
"""Kind -> form -> worth. Openings: warm, plain, cold, silly; closings: farewell, stop, offer,
curtain, snub; the rest is the body of an answer."""
