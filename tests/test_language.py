"""The language of a text: a short paragraph in every language that published instructions ask for, and mixtures."""

from __future__ import annotations

import pytest

from rewards.language import UnknownLanguageError, detect, is_in, share

TEXTS = {
    "en": "The river rises in the hills and runs through three towns before it reaches the sea. Most people who "
    "live here fish in it.",
    "es": "El río nace en las montañas y pasa por tres ciudades antes de llegar al mar. La mayoría de la gente "
    "que vive aquí pesca en él.",
    "pt": "O rio nasce nas montanhas e passa por três cidades antes de chegar ao mar. A maioria das pessoas que "
    "vivem aqui pesca nele.",
    "fr": "La rivière prend sa source dans les collines et traverse trois villes avant de rejoindre la mer. "
    "Ceux qui vivent ici y pêchent.",
    "de": "Der Fluss entspringt in den Bergen und fließt durch drei Städte, bevor er das Meer erreicht. Die "
    "meisten Leute fischen dort.",
    "it": "Il fiume nasce sulle colline e attraversa tre città prima di raggiungere il mare. La maggior parte "
    "della gente pesca qui.",
    "pl": "Rzeka wypływa w górach i przepływa przez trzy miasta, zanim dotrze do morza. Większość ludzi, którzy "
    "tu mieszkają, łowi ryby.",
    "fi": "Joki saa alkunsa vuorilta ja virtaa kolmen kaupungin läpi ennen kuin se laskee mereen. Useimmat "
    "ihmiset kalastavat siellä.",
    "vi": "Con sông bắt nguồn từ những ngọn đồi và chảy qua ba thành phố trước khi ra biển. Hầu hết người dân ở "
    "đây đều đánh cá.",
    "sw": "Mto unaanzia katika milima na unapita katika miji mitatu kabla ya kufika baharini. Watu wengi "
    "wanaoishi hapa ni wavuvi.",
    "ru": "Река берёт начало в горах и течёт через три города, прежде чем впадает в море. Большинство людей, "
    "которые здесь живут, ловят рыбу.",
    "uk": "Річка бере початок у горах і тече через три міста, перш ніж впадає в море. Більшість людей, які тут "
    "живуть, ловлять рибу.",
    "bg": "Реката извира в планината и минава през три града, преди да се влее в морето. Повечето хора, които "
    "живеят тук, ловят риба.",
    "ar": "ينبع النهر من الجبال ويمر عبر ثلاث مدن قبل أن يصل إلى البحر. معظم الناس الذين يعيشون هنا يصطادون السمك فيه.",
    "fa": "رودخانه از کوه‌ها سرچشمه می‌گیرد و از سه شهر می‌گذرد تا به دریا برسد. بیشتر مردمی که اینجا زندگی می‌کنند ماهی می‌گیرند.",
    "ur": "دریا پہاڑوں سے نکلتا ہے اور سمندر تک پہنچنے سے پہلے تین شہروں سے گزرتا ہے۔ یہاں رہنے والے زیادہ تر "
    "لوگ مچھلی پکڑتے ہیں۔",
    "hi": "नदी पहाड़ों से निकलती है और समुद्र तक पहुँचने से पहले तीन शहरों से होकर गुज़रती है। यहाँ रहने वाले लोग मछली पकड़ते हैं।",
    "mr": "नदी डोंगरात उगम पावते आणि समुद्राला मिळण्यापूर्वी तीन शहरांमधून वाहते. येथे राहणारे बहुतेक लोक मासेमारी करतात आणि ते आनंदी आहेत.",
    "ne": "नदी पहाडबाट निस्कन्छ र समुद्रमा पुग्नुअघि तीन सहर भएर बग्छ। यहाँ बस्ने धेरै मानिसहरू माछा मार्छन् र उनीहरूको जीवन राम्रो छ।",
    "bn": "নদীটি পাহাড় থেকে বেরিয়ে তিনটি শহরের মধ্য দিয়ে সমুদ্রে পড়ে।",
    "ta": "ஆறு மலையில் தோன்றி மூன்று நகரங்கள் வழியாகக் கடலை அடைகிறது.",
    "te": "నది కొండల్లో పుట్టి మూడు పట్టణాల గుండా సముద్రంలో కలుస్తుంది.",
    "kn": "ನದಿಯು ಬೆಟ್ಟಗಳಲ್ಲಿ ಹುಟ್ಟಿ ಮೂರು ಪಟ್ಟಣಗಳ ಮೂಲಕ ಸಮುದ್ರ ಸೇರುತ್ತದೆ.",
    "ml": "നദി മലകളിൽ ഉത്ഭവിച്ച് മൂന്ന് പട്ടണങ്ങളിലൂടെ കടലിൽ എത്തുന്നു.",
    "gu": "નદી ટેકરીઓમાંથી નીકળીને ત્રણ શહેરોમાંથી સમુદ્રને મળે છે.",
    "pa": "ਨਦੀ ਪਹਾੜਾਂ ਤੋਂ ਨਿਕਲ ਕੇ ਤਿੰਨ ਸ਼ਹਿਰਾਂ ਵਿੱਚੋਂ ਸਮੁੰਦਰ ਤੱਕ ਜਾਂਦੀ ਹੈ।",
    "th": "แม่น้ำเริ่มต้นจากภูเขาและไหลผ่านสามเมืองก่อนถึงทะเล",
    "ko": "강은 산에서 시작하여 세 도시를 지나 바다에 이른다.",
    "ja": "川は山から流れ出し、三つの町を通って海に注ぐ。",
    "zh": "这条河发源于山中，流经三座城市，最后汇入大海。",
    "he": "הנהר נובע בהרים ועובר דרך שלוש ערים לפני שהוא מגיע לים.",
}


@pytest.mark.parametrize("language", TEXTS)
def test_each_language_is_told_from_all_others(language):
    text = TEXTS[language]
    assert detect(text) == detect(text.upper()) == detect(text.lower()) == language
    assert [other for other in TEXTS if is_in(text, other)] == [language]
    assert share(text, language) == 1.0


@pytest.mark.parametrize("text", ["", "12 + 30 = 42", "!?", "x"])
def test_some_texts_have_no_language(text):
    assert detect(text) is None
    assert not is_in(text, "de")


def test_short_plain_texts_pass_as_english_and_long_ones_do_not():
    assert is_in("HELLO WORLD.", "en")
    assert not is_in("zxq wvu " * 20, "en")
    assert not is_in("42", "en")


@pytest.mark.parametrize("other", ["en", "fr", "ru", "zh"])
def test_a_paragraph_in_another_language_is_no_part_of_a_whole(other):
    assert not is_in(f"{TEXTS['de']}\n\n{TEXTS[other]}", "de")
    assert is_in(f"{TEXTS['de']}\n\nDie Antwort lautet 42.", "de")


def test_names_and_terms_may_stay_in_their_script():
    assert is_in("Река Mississippi впадает в море, и это очень хорошо для людей, которые там живут.", "ru")
    assert not is_in("Река Mississippi flows into the sea near New Orleans.", "ru")


def test_share_counts_words_of_mixed_text():
    assert share("The river is long. 河流很长。", "en") == 0.5
    assert share("The river is long. 河流很长。", "zh") == 0.5
    mixed = share(f"{TEXTS['en']} {TEXTS['fr']}", "en")
    assert mixed is not None
    assert 0.4 < mixed < 0.6
    assert share("1 + 2 = 3", "en") is None


def test_share_is_not_fooled():
    assert share("zxq wvu " * 20, "en") == 0.0
    salad = share("the of and " + TEXTS["de"], "en")
    assert salad is not None
    assert salad < 0.6
    assert share(TEXTS["fr"], "en") == 0.0


def test_an_unknown_language_is_named():
    with pytest.raises(UnknownLanguageError, match="unknown language 'deu'; did you mean 'de'"):
        is_in("Der Fluss", "deu")
    assert is_in(TEXTS["zh"], "zh-cn")
