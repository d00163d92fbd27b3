"""Questions for the teacher. What tiny is to answer is simple and short, so that is what is asked; a part of the questions the teacher makes up itself."""

import numpy as np

ANIMALS = "cat dog rabbit fox bear mouse owl duck frog turtle horse pig cow sheep bird squirrel lion elephant monkey penguin bee ant butterfly fish whale dragon".split()
PEOPLE = "girl boy king queen farmer teacher baker sailor doctor gardener fisherman wizard princess knight painter tailor pilot shepherd clockmaker grandmother grandfather".split()
NAMES = "Tom Lily Ben Mia Sam Anna Jack Lucy Max Emma Leo Sara Tim Ella Finn Nora Jake Ruby Oscar Maya Henry Grace Paul Rose Daniel Clara".split()
PLACES = "forest garden village river mountain beach farm castle park city school library kitchen market island cave meadow lake desert attic train ship".split()
THINGS = "ball hat book key lamp boat kite cake apple box map stone flower tree bell mirror clock drum blanket letter seed coin umbrella basket ring bicycle robot balloon".split()
FEELINGS = "happy sad brave lonely kind curious shy greedy lazy proud scared clever hungry tired angry patient gentle".split()
LESSONS = [
    "sharing", "telling the truth", "being kind", "helping a friend", "being patient", "trying again", "being brave", "listening", "working together",
    "saying sorry", "not giving up", "being careful", "saying thank you", "keeping a promise",
]
CONCEPTS = (
    "gravity,rain,snow,the sun,the moon,a star,a planet,the ocean,a river,a mountain,a volcano,an earthquake,wind,a cloud,lightning,fire,ice,water,air,soil,a rock,gold,iron,salt,sugar,bread,"
    "cheese,milk,an egg,an apple,rice,tea,coffee,chocolate,honey,a tree,a flower,grass,a seed,a forest,a desert,an island,a farm,a city,a village,a house,a school,a library,a hospital,a museum,"
    "a bridge,a road,a train,a car,a bicycle,a ship,an airplane,a computer,the internet,a phone,a book,a newspaper,a letter,a map,a clock,a calendar,money,a bank,a market,a job,a teacher,a doctor,"
    "a nurse,a farmer,a scientist,an artist,a musician,a writer,a king,a president,a law,a government,democracy,a vote,war,peace,friendship,love,happiness,anger,fear,courage,kindness,honesty,"
    "patience,sleep,a dream,memory,the brain,the heart,blood,a bone,a muscle,the skin,an eye,an ear,a tooth,a cell,DNA,evolution,a dinosaur,a fossil,a mammal,a bird,a fish,an insect,a reptile,"
    "a plant,photosynthesis,energy,electricity,light,sound,heat,temperature,a magnet,a machine,a wheel,an engine,a battery,a robot,a program,mathematics,addition,a number,a triangle,a circle,"
    "a fraction,history,geography,science,art,music,a song,a story,a poem,a play,a film,a game,football,chess,swimming,running,exercise,health,a vitamin,a germ,a virus,medicine,a vaccine,"
    "recycling,pollution,climate,weather,a season,spring,summer,autumn,winter,the equator,a continent,Africa,Europe,Asia,America,Australia,the Sahara,the Amazon,the Nile,London,Paris,Rome,New York"
).split(",")
ACTIVITIES = (
    "sleeping better,learning a language,saving money,staying healthy,making friends,studying for a test,writing a letter,growing tomatoes,cooking rice,baking bread,cleaning a room,reading more,"
    "waking up early,drinking more water,walking every day,learning to swim,drawing a face,playing the guitar,taking care of a dog,taking care of a plant,packing for a trip,giving a talk,"
    "staying calm,being on time,planning a birthday party,making tea,riding a bicycle,writing a story,remembering names,saving water,using less energy,working in a team,finding a job"
).split(",")
LOOKS = "old small red warm quiet bright strange beautiful cold empty busy green dark sunny".split()

BRIEF = "You are brief. Answer in two or three short sentences."
SIMPLE = "You write short stories in simple words. A story has one or two paragraphs and an end."
DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The prompt that SmolLM2's template puts first: with it, an empty turn of the user makes the teacher think of a question."""

STORIES = [
    "Tell me a story about a {feeling} {animal}.", "Write a short story about a {animal} and a {animal2}.", "Write a story about {name} and a {look} {thing}.",
    "Tell me a short story about a {person} who lived in a {place}.", "Write a story about a {animal} that found a {thing} in the {place}.",
    "Tell a bedtime story about a {feeling} {person}.", "Write a short story about {lesson}.", "Tell me a story about {name}, a {feeling} {person}.",
    "Write a story in which a {animal} learns about {lesson}.", "Tell me a story.", "Write a short story.", "Tell me a short story about a {look} {place}.",
    "Once upon a time there was a {feeling} {animal}. What happened next?", "Make up a story with a {thing}, a {animal} and a {place}.",
    "Write a funny story about a {person} and a {animal}.", "Tell me a story about two friends, {name} and {name2}.",
]
QUESTIONS = [
    "What is {concept}?", "What is {concept}? Answer in one sentence.", "Explain {concept} to a child.", "Tell me about {concept}.", "Why is {concept} important?", "How would you describe {concept}?",
    "Write one sentence about {concept}.", "Give me three facts about {concept}.", "What can you do with a {thing}?", "What does a {animal} eat?", "Where does a {animal} live?", "What sound does a {animal} make?",
    "Describe a {look} {place}.", "Describe a {animal}.", "Give me three tips for {activity}.", "How do I start {activity}?", "Give me some advice about {activity}.", "What should I know about {activity}?",
    "Is {concept} good or bad?", "What is the difference between {concept} and {concept2}?", "Write a short poem about {concept}.", "Write a short poem about a {feeling} {animal}.",
    "Write a letter from {name} to {name2}.", "What makes people {feeling}?", "I feel {feeling}. What can I do?", "Name three things in a {place}.", "Name five animals.", "What is your favourite {thing}?",
    "List three things that you need for {activity}.", "What do people do in a {place}?", "Who works in a {place}?", "Write a sentence with the word {thing}.",
]
READING = ["Summarize this text in one sentence:\n{text}", "What is this text about?\n{text}", "{text}\n\nSummarize the text above.", "Give this text a title:\n{text}"]

SELF = [
    (["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Are you a human?", "Who made you?", "What are you called?"], [
        "I am tiny, a small language model that comes with rsparse. I run on your own computer and can write short answers and stories.",
        "My name is tiny. I am a small language model, and I run inside this program without the internet.",
    ]),
    (["Hello", "Hi", "Hello!", "Hi there!", "Good morning!", "Hey", "Good evening.", "Hello, how are you?"], [
        "Hello! How can I help you today?", "Hi! You can ask me a simple question, or for a short story.", "Hello! It is nice to meet you. What would you like to talk about?",
    ]),
    (["Thank you!", "Thanks.", "Thanks, that was helpful.", "Thank you very much."], ["You are welcome!", "You are welcome. Is there anything else you would like to know?"]),
    (["Goodbye", "Bye!", "Good night.", "See you later."], ["Goodbye! Have a nice day.", "Good night! Sleep well.", "See you later!"]),
    (["What can you do?", "How can you help me?", "What do you know?"], [
        "I can answer simple questions and tell short stories. I am a very small model, so please check what I say.",
    ]),
]
"""What the teacher can't answer for tiny: questions about itself, and the answers to draw from."""


def draw(random: np.random.Generator, kind: str, passages: list[str]) -> tuple[str, str]:
    """A system prompt and a question of a kind: `story`, `question` or `reading`."""
    one = lambda items: items[int(random.integers(len(items)))]
    text = {"story": STORIES, "question": QUESTIONS, "reading": READING}[kind]
    words = dict(
        animal=one(ANIMALS), animal2=one(ANIMALS), person=one(PEOPLE), name=one(NAMES), name2=one(NAMES), place=one(PLACES), thing=one(THINGS), feeling=one(FEELINGS),
        lesson=one(LESSONS), concept=one(CONCEPTS), concept2=one(CONCEPTS), activity=one(ACTIVITIES), look=one(LOOKS), text=one(passages) if passages else "",
    )
    asked = one(text).format(**words)
    for wrong in ("a owl", "a elephant", "a ant", "a old", "a empty", "a apple", "a umbrella", "a island", "a attic", "a angry"):
        asked = asked.replace(f" {wrong}", f" an{wrong[1:]}")
    return SIMPLE if kind == "story" else BRIEF, asked


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"
