"""What `rewards.language` knows of a language: its script, commonest words, and endings and letters that few others have."""

from __future__ import annotations

_OF_SCRIPT = {
    "latin": "en es pt fr de it nl sv da no fi pl cs sk hu ro tr vi sw id tl ca hr sl lt lv et af cy so sq",
    "cyrillic": "ru uk bg sr mk be",
    "arabic": "ar fa ur",
    "devanagari": "hi mr ne",
    "han": "zh",
    "kana": "ja",
    "hangul": "ko",
    "greek": "el",
    "hebrew": "he",
    "thai": "th",
    "bengali": "bn",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "malayalam": "ml",
    "gujarati": "gu",
    "gurmukhi": "pa",
}
SCRIPTS = {language: script for script, languages in _OF_SCRIPT.items() for language in languages.split()}

# First and last code points, in order.
RANGES = (
    (0x0041, 0x005A, "latin"),
    (0x0061, 0x007A, "latin"),
    (0x00AA, 0x02AF, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0750, 0x077F, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0A00, 0x0A7F, "gurmukhi"),
    (0x0A80, 0x0AFF, "gujarati"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0C80, 0x0CFF, "kannada"),
    (0x0D00, 0x0D7F, "malayalam"),
    (0x0E00, 0x0E7F, "thai"),
    (0x1100, 0x11FF, "hangul"),
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x3041, 0x30FF, "kana"),
    (0x3131, 0x318E, "hangul"),
    (0x31F0, 0x31FF, "kana"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xAC00, 0xD7A3, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFB1D, 0xFB4F, "hebrew"),
    (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFC, "arabic"),
    (0xFF21, 0xFF3A, "latin"),
    (0xFF41, 0xFF5A, "latin"),
    (0xFF66, 0xFF9D, "kana"),
    (0x20000, 0x323AF, "han"),
)

COMMON = {
    "en": "the of and to in is that it for was on are with as his they be at this have from or had by but not what all "
    "were we when your can there their which do how if will each about many then them would these so her him has "
    "who its my than been you i he she yes no hello thank please where why could should into some more also "
    "because other only over such after most",
    "es": "de la que el en y a los del se las por un para con no una su al lo como más pero sus le ya o este sí porque "
    "esta entre cuando muy sin sobre también me hasta hay donde quien desde todo nos durante todos uno les ni "
    "contra otros ese eso ante ellos esto mí antes algunos qué unos yo es son fue está ser hola gracias buenos "
    "días cada puede han",
    "pt": "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu "
    "sua ou ser quando muito há nos já está eu também só pelo pela até isso ela entre era depois sem mesmo aos "
    "ter seus quem nas me esse eles estão você tinha foram essa num nem suas às minha têm obrigado olá sim são "
    "pode cada",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec mais on "
    "ou cette son aux nous vous je tu elle ils leur être comme ses tout bien fait très peut même ces où sans "
    "entre aussi été c'est d'un d'une l'on n'est qu'il j'ai merci bonjour oui non votre notre après deux chaque "
    "puis donc",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er "
    "hat dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur "
    "bis mehr durch man sein wurde sei ich du wir ihr ja nein danke bitte wenn kann alle dieser diese wo warum "
    "hallo heute sehr",
    "it": "di e il la che in un a per è una sono con non del si da come le dei nel alla più anche i ha gli della lo ma "
    "al o se delle ai questo questa essere dalla io ci mi ti sua suo loro quando cosa molto tutti tutto era hanno "
    "perché fatto dopo degli nella dal due sul quello sulla prima ancora c'è grazie ciao sì può ogni così chi "
    "dove",
    "nl": "de het een en van in is dat op te zijn met voor niet aan er om ook als dan maar bij nog uit door naar heeft "
    "ik je hij ze we wij jullie zij haar hun dit deze die wat wordt worden werd kan kunnen zou al over tot geen "
    "meer onder hebben was of veel mijn zo moet hoe waar waarom omdat ja nee dank hallo goed heel",
    "sv": "och i att det som en på är av för med den till inte har de om ett men var jag sig från vi så kan när hon han "
    "nu då eller vad ska skulle där också efter upp sin mycket bara hade alla mot vid kommer ut få finns hur ja "
    "nej tack hej min du honom utan andra detta dessa varje blir blev vara mellan",
    "da": "og i at det er en til på de som med for af den der ikke har et kan om fra men var vi jeg man han hun så nu "
    "når eller hvad skal også efter op sin meget kun havde alle ved blev bliver mod hvor hvordan ja nej tak hej "
    "min du ham uden andre dette disse hver være mellem dem hvis noget nogle bare kunne ville denne siden både "
    "endnu end",
    "no": "og i det er på en som til å av for med at ikke har de et den var om jeg men fra vi han hun så kan når eller "
    "hva skal også etter opp sin mye bare hadde alle ved ble blir mot hvor hvordan ja nei takk hei min du ham "
    "uten andre dette disse hver være mellom dem hvis noe noen seg dere kunne ville denne siden både ennå enn",
    "fi": "ja on ei että se hän oli en minä mutta kun niin ovat tai joka mitä myös kuin ole sen olla voi mukaan sekä "
    "jos nyt vain hyvin siitä sitä tämä tämän ne he me te sinä kaikki jo vielä eli koska kanssa olen olet olemme "
    "olivat joita jossa jonka mikä missä miksi kyllä kiitos hei paljon ennen jälkeen välillä joten sillä täällä "
    "siellä tulee täytyy pitää useita joko eikä eivät voivat voit jokainen hänen minun sinun niitä niiden tässä "
    "siinä",
    "pl": "i w na się z że nie do to jest o jak a po co ale tak za od jego jej ich przez dla był była było są czy ma "
    "może tylko już który która które tym tego bardzo jeszcze gdy oraz być także ja ty on ona my wy oni mnie mi "
    "ze pod przy bez jako lub kiedy gdzie dlaczego dziękuję cześć dzień proszę każdy można więc aby",
    "cs": "a v se na je že to s z do i o ale jako si by ve po které který která tak pro jsou jsem ze při od byl byla "
    "bylo být není za jeho jejich nebo když už jen také však co kde proč ano ne děkuji ahoj dobrý má mají může až "
    "než před mezi více velmi její podle tento této jsme",
    "sk": "a v sa na je že to s z do aj o ale ako si by vo po ktoré ktorý ktorá tak pre sú som zo pri od bol bola bolo "
    "byť nie za jeho ich alebo keď už len tiež však čo kde prečo áno ďakujem ahoj dobrý má majú môže až než pred "
    "medzi viac veľmi jej podľa tento tejto sme",
    "hu": "a az és hogy nem is egy ez volt van meg csak de már el vagy mint ha még ki azt be lehet kell sem ezt én te ő "
    "mi ti ők mert ami aki mely után minden nagyon majd igen köszönöm szia hol miért hogyan között voltak lesz "
    "pedig így úgy több amely azonban itt ott valamint által",
    "ro": "de și în a la cu pe nu se că o din un mai este sunt care pentru sau ce am dar prin fi ca să au fost după lui "
    "ei el ea îl îi ale al ai acest această acestea când cum unde foarte tot toate fără până între eu tu noi voi "
    "da mulțumesc bună doar dacă poate fiecare către astfel",
    "tr": "ve bir bu da de için ile çok daha o olarak ne gibi olan kadar ama en var sonra değil ki ben sen biz siz "
    "onlar her şey mi mı mu mü ya yok iyi nasıl neden nerede evet hayır teşekkür merhaba olduğu oldu olduğunu ise "
    "göre ancak bunu şu veya hem sadece kendi arasında tarafından",
    "vi": "và của là có không được cho trong một những các người với này đã đến ra khi từ vào cũng như để tôi bạn anh "
    "chị em ông bà nó họ chúng ta thì mà ở về đó nhiều rất sẽ phải trên nếu hay hoặc vì sao gì nào đâu xin chào "
    "cảm ơn lại năm hai ngày còn hơn việc làm nên tại sau đang",
    "sw": "na ya wa kwa ni katika la za cha kuwa hii au kama yake huo hiyo watu lakini vya si pia wake hilo hivyo mtu "
    "baada kutoka zaidi yao sana bila mimi wewe yeye sisi nyinyi wao hapa huko nini nani wapi kwani ndiyo hapana "
    "asante habari karibu kila ambayo ambao mwaka mmoja moja wakati ili hadi juu chini kuna alikuwa ilikuwa",
    "id": "yang dan di dari untuk dengan pada adalah ini itu dalam tidak akan oleh ke juga atau karena sebagai ada saya "
    "anda dia mereka kami kita bisa dapat telah sudah lebih seperti tersebut namun saat setelah apa siapa mana "
    "mengapa bagaimana ya bukan terima kasih selamat halo sangat banyak setiap hari orang satu jika menjadi bahwa "
    "antara secara",
    "tl": "ang ng sa na mga ay at si ni ko mo ito hindi para kung siya niya ako ikaw kami tayo sila nila namin natin "
    "may mayroon wala po opo oo kay ngunit pero dahil kaya din rin lang nang isang isa iyon doon dito saan bakit "
    "paano ano sino salamat kumusta mula bilang kanyang kanilang maging pag araw",
    "ca": "de la que i el a en les per un es del amb els una al no més dels seu com va ser és o són però també aquest "
    "aquesta sobre hi ha han seva tot molt quan on perquè jo tu ell ella nosaltres gràcies hola sí als pels entre "
    "fins sense després abans cada pot l'any d'un d'una",
    "hr": "i u je na se da su za od s a o kao koji koja koje iz što bi ne sa nije ili po do ali samo bio bila bilo biti "
    "može više također te već kada kako gdje zašto ja ti on ona mi vi oni hvala bok dobro vrlo između prije "
    "poslije svoj sve ovaj ova ovo nakon",
    "sl": "in je v na se da so za z s ki bi pa po tudi ne ali kot od iz do pri kar ni še če le bil bila bilo biti lahko "
    "več zelo že ko kako kje zakaj jaz ti on ona mi vi oni hvala zdravo dobro med pred svoj vse ta to te ker sem "
    "smo sta",
    "lt": "ir į kad yra su iš tai ne o bet kaip buvo apie už nuo jis ji jie mes jūs aš tu tik dar jau taip labai ar per "
    "po prie kai kur kodėl ačiū labas pat gali būti kuris kuri kurie šis ši visi viskas metų tarp",
    "lv": "un ir no uz ar ka par tas ne bet kā bija pēc tā arī viņš viņa viņi mēs jūs es tu tikai vēl jau ļoti vai pie "
    "kad kur kāpēc paldies sveiki jā nē var būt kas kura kuri šis šī visi gada starp lai gan savu",
    "et": "ja on ei et see ta oli ma aga kui nii või mis ka kes ning selle oma mida nagu siis välja veel juba ainult "
    "väga kõik me te nad sa mina sina tema meie teie nende kus miks kuidas jah aitäh tere olla võib pärast enne "
    "vahel seda aasta",
    "af": "die en van in is het dat 'n nie te vir op met wat as aan was hy sy om ook hulle ons jy ek my maar kan sal "
    "deur by uit na oor meer baie word hierdie daar waar hoekom hoe ja nee dankie hallo sê moet omdat",
    "cy": "y yr a i yn o ar mae ac am wedi ei eu oedd yw bod sydd gan ond hefyd ni fel nid chi fi ef hi hwn hon hyn "
    "beth ble pam sut diolch helo iawn mewn at gyda dros wrth er pan",
    "so": "oo iyo ku ka waa in uu ah la ay ee u si waxaa aan kale ayaa soo leh ma wax ama kaas taas sida markii dad "
    "badan haa maya mahadsanid waxa ugu laga lagu kala",
    "sq": "të e në dhe i që një për me nga është më se u si ka do kjo ky por edhe kanë ishte janë nuk shumë tij saj ata "
    "ajo ai unë ti ne ju po jo faleminderit mirë kur ku pse",
    "ru": "и в не на что я с он а как это по но они мы к у его из за то все от так же вы бы о для ты она был была было "
    "были мне когда или только ещё уже если есть может где почему да нет спасибо привет очень который которые "
    "также этот эта со чтобы при ее их этого этой этом нужно надо еще более между через после перед каждый другие "
    "себя него нее чем кто во будет быть того",
    "uk": "і в не на що я з він а як це по але вони ми до у його із за то все від так же ви би о для ти вона був була "
    "було були мені коли або тільки ще вже якщо є може де чому та ні дякую привіт дуже який які також цей ця про "
    "щоб й",
    "bg": "и в не на че аз с той а как това по но те ние към у го от за то всички така вие бих о да ти тя беше са съм "
    "когато или само още вече ако е може къде защо благодаря здравей много който които също този тази се със във "
    "ще бъде до при като някои няма трябва всеки между след през преди повече нас него нея им му което която "
    "защото обаче дали бъдат имат",
    "sr": "и у не на да је се су за од са а о као који која које из што би није или по до али само био била било бити "
    "може више такође већ када како где зашто ја ти он она ми ви они хвала здраво веома између",
    "mk": "и во не на да е се за од со а како што кој која кои тоа но или по до ама само беше има може многу веќе кога "
    "каде зошто јас ти тој таа ние вие тие благодарам здраво меѓу ова овој некои нема треба секој после преку "
    "повеќе него неа им му кое бидејќи дали бидат имаат овие сите",
    "be": "і ў не на што я з ён а як гэта па але яны мы да у яго за то ўсё ад так жа вы бы аб для ты яна быў была было "
    "былі калі або толькі яшчэ ужо ёсць можа дзе чаму дзякуй вельмі які якія таксама",
    "ar": "في من على إلى أن هذا التي الذي هذه عن مع ما لا كان هو هي ذلك بعد قد كل بين أو لم كانت كما و حيث ثم عند لكن "
    "نحن أنا أنت هم إن أي غير حتى قبل يمكن نعم شكرا مرحبا جدا لأن",
    "fa": "و در به از که این را با است برای آن یک خود تا می بر بود شده ها شد من ما تو او آنها هم یا اما اگر همه باید "
    "نیز هر چه کرد کند دارد هستند بسیار بله نه ممنون سلام چرا کجا های بین",
    "ur": "کے میں کی ہے اور سے کا کو اس نے پر یہ کہ ہیں نہیں ہو ایک بھی تھا تھی تھے وہ جو ان کیا گیا کر لیے ہم آپ تو ہی "
    "ساتھ بہت یا اپنے جی ہاں شکریہ کیوں کہاں سب ہوتا درمیان",
    "hi": "के में की है और से को का हैं यह नहीं एक पर भी था थी थे वह जो ने कि हो गया कर लिए हम आप तो ही साथ बहुत या "
    "अपने इस उस हाँ धन्यवाद नमस्ते क्यों कहाँ सब होता मैं मेरे किया जाता इसके द्वारा करने होने किसी कुछ सकते सकता जब "
    "तक जैसे लेकिन फिर दो अब वाले अधिक रहा रही रहे कोई बाद क्या उनके उसके मुझे",
    "mr": "आहे आणि हे ते या की आहेत होते नाही एक तर व हा ही मी तो ती आम्ही तुम्ही त्या त्यांनी त्याने मध्ये साठी पण किंवा सर्व "
    "खूप होता होती असे का कुठे धन्यवाद नमस्कार करून केले झाले आपल्या म्हणून काही त्याला तिला येथे त्यामुळे जे जो सुद्धा "
    "देखील इतर आपण शकते शकता करण्यासाठी असते असतात माझ्या माझे तेव्हा जेव्हा मला त्याच्या तिच्या नंतर",
    "ne": "छ हो र को मा का लाई यो छन् पनि गरेको भएको गर्न हुन्छ थियो त्यो म हामी तपाईं उनी भने वा तर धेरै के किन कहाँ "
    "धन्यवाद नमस्ते लागि एक हुन् गरी जुन सबै आफ्नो बाट सँग नै गर्छ गर्ने गरे हुने छैन भन्दा अनि उहाँ तिमी मेरो हाम्रो त्यस "
    "यस जस्तै अझै पछि अघि सम्म देखि तथा अरू राम्रो दिन मान्छे गर्दै भयो भए थिए त्यसैले यसरी कृपया",
}

# Letters outside the plain alphabet of the script, for the languages that write them often.
LETTERS = {
    "es": "ñ¿¡áíóúé",
    "pt": "ãõçáàâêéíóôú",
    "fr": "éèêàâçœùûîôëï",
    "de": "äöüß",
    "it": "èàòùìé",
    "nl": "ëĳ",
    "sv": "åäö",
    "da": "æøå",
    "no": "æøå",
    "fi": "äö",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "hu": "áéíóöőúüű",
    "ro": "ăâîșțşţ",
    "tr": "çğıöşü",
    "vi": "ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹàáãèéìíòóõùúýĩũ",
    "ca": "àçèéíïòóúü·",
    "hr": "čćđšž",
    "sl": "čšž",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "et": "äõöüšž",
    "cy": "ŵŷâêîôû",
    "sq": "ëç",
    "ru": "ыэёщъь",
    "uk": "іїєґщь",
    "bg": "ъщь",
    "sr": "јљњћђџ",
    "mk": "јљњѓќџѕ",
    "be": "ўіыэё",
    "ar": "كيةىأإؤئ",
    "fa": "پچژگکی",
    "ur": "ٹڈڑںےہھپچگکی",
    "mr": "ळ",
}

# How many of its words end.
ENDINGS = {
    "en": "ing tion tions ed ly ness ment ments ous ful ght th sion able ible ies ship",
    "es": "ción ciones dad mente ando iendo ado idos ada adas ería ario bre ero cia ar er ir",
    "pt": "ção ções dade mente ando endo ado adas inho ões eira ário ência ável são ar er ir",
    "fr": "tion ment eur eux aux ait ent ée ées és euse ique eau elle ette oir ère age iers",
    "de": "ung ungen en lich keit heit isch schaft chen ieren ische enden sten tet",
    "it": "zione zioni mente tà are ere ire ato ati ggio ico iche ando endo ezza ello",
    "nl": "heid lijk lijke ijk eren ende baar sch gen elijk",
    "sv": "ar ning het lig igt ande orna ades aste arna ningen iska ras",
    "da": "hed lig ende erne ede elser ning ningen eret else det",
    "no": "het lig ende ene ede elser ning ningen ert else skal",
    "fi": "nen ssa ssä sta stä lla llä inen taan tään iin een ksi tta ttä uus ään aan ista istä jen set",
    "pl": "ość nie ać ych ego emu owy ów ski acja cję anie enie ami ać ony ować",
    "cs": "ost ní ého ých ovat ský ání ení ů ích ého ými ného tí",
    "sk": "osť nie ého ých ovať ský anie enie ých ami nosť",
    "hu": "ság ség nak nek ban ben ott ett ása ése ok ek hoz hez tal tel val vel ni",
    "ro": "ul ului rea ție ția esc ează lor ele are ată ile ului",
    "tr": "lar ler ları leri ın dır dir mak mek ması mesi lık lik yor ız iz nız niz da de dan den",
    "sw": "sha isha ika wa zi ake ako wao lazima",
    "id": "kan nya an kah lah annya",
    "tl": "ng han hin ing",
    "ca": "ció tat ment ats ar eix",
    "hr": "ost nje ati iti ski ova anje enje ija ije",
    "sl": "ost nje ati iti ski anje enje ega emu ih",
    "lt": "as is us ai os ės ti imas ių oje ams",
    "lv": "as is us ot ība šana iem ām ēt ums",
    "et": "mine ud ks da sse ist us ada tud",
    "af": "heid lik ing elike ers",
    "cy": "au iad iol wch odd",
    "so": "ka ta da aha ada yo",
    "sq": "ve ore uar imi ar it",
    "ru": "ость ние ать ить ого ых ый ая ция тся ться ные ной ете ите ение ения ому ает",
    "uk": "ість ння ати ити ого их ий ція ться ні ної єте іть ення ому ає",
    "bg": "ост ние ите ата ето ция ният ета ия ване ят ено ани",
    "mk": "ост ње ите ата ето ција ува иот ено ани еда",
    "sr": "ост ње ати ити ски ција ања ење ите ије ог ом",
    "be": "асць нне аць ыць ага ых ае цца цыя ення ому",
    "hi": "ना ने ता ती ते ें ों िए ाई",
    "mr": "णे चे ची चा ला ात ून ावा च्या ण्यास ण्याची ाचे ले ली",
    "ne": "को मा ले लाई हरू नु एको हुन् होस् हरूको नुहोस्",
}
