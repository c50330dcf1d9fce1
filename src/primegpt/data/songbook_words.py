"""The words of the songbook: rhyme families, endings, slots, line patterns and themes. Pure data, written for primegpt.

How to read it
- A line is a head (a clause, from HEADS) and an ending (from ENDINGS and RHYMES) whose last word carries the rhyme.
- `{slot}` in a pattern stands for any entry of that slot; "a {slot}" becomes "an ..." where the entry needs it.
- Entries are "key: one; another", an indented line goes on with the one before. The key says who may use them: "any"
  song, an emotion, or a genre.
"""

# A paragraph a family: its words rhyme with each other and stand in no other family. The key says what a word can do
# at the end of a line, and so picks what leads to it in ENDINGS: "np" is a noun phrase, "adv" an adverbial, "tell" a
# whole clause, a preposition a noun that goes with it. "/hr" keeps an entry to the emotions with these initials.
RHYMES = """
verb: stay; play/hra; pray/sr; sway/hr; walk away; run away/sa; find a way
feel: okay/h; far away/s
look: gray/sa; far away
np: a rainy day/s; a sunny day/h; the price I pay/sa; a better way; the things you say; a brand new day/hr; yesterday
adv: far away; every day; all the way; day after day; a little more each day; today; any day; night and day
tell: there's nothing left to say/sa; I hear what you say; get out of my way/a; it slips away/s; I'll be okay; it's
    our lucky day/h; love will find a way/hr; I should have walked away/s; you threw it all away/a; you take my breath
    away/r
by: bay

verb: fight/sa; hold on tight; sleep at night; make it right; dance all night/hr; say goodnight
feel: right/hr; all right
look: bright/hr; white/s
own: sight/r; light/hr
np: another sleepless night/s; a July night/hr; love at first sight/r; a whisper in the night; a dirty fight/a; the
    morning light; a guiding light
adv: tonight; all night; out of sight; every night; day and night; with all my might
tell: nothing feels right/s; I turn out the light; it's gonna be all right; we're shining bright/h; I'm ready for a
    fight/a; you know I'm right/a; hold me tight/r; we stay up every night
in: night; light; city light; morning light
under: light; city light
through: night

verb: explain; remain; complain/a; break the chain/a; dance in the rain/hr; run for the train; hide the pain/s; feel
    the pain/s
feel: insane/a
own: pain/s
like: a runaway train; a hurricane/a; July rain/hr; a ball and chain/sa
np: the sound of rain; a heart in pain/s; a midnight train; a walk in the rain; the taste of champagne/hr
adv: in vain/sa; again and again
tell: you're on my brain; I can't explain; it drives me insane; there's nothing to explain; it looks like rain; nobody
    feels my pain/s; you'll feel my pain/a; we're dancing in the rain/hr
in: rain; pouring rain; fast lane/ha
on: train; plane; midnight train
through: rain; pain/s
down: lane

verb: go; know; grow; glow/hr; let go; take it slow/r; say hello/h; say no/a; let it show
feel: low/s; aglow/hr
look: aglow/hr
np: the life I used to know; a love to grow/r; a house below; seeds to sow; the final blow/a; a friend I used to
    know/s; a rainbow/h
adv: long ago; nice and slow/hr; down below; everywhere I go; wherever we go; so long ago
aside: high and low
tell: it's time to go; the cold winds blow/sa; the warm winds blow/hr; I told you so/a; I love you so/r; I miss you
    so/s; I let you go/s; you reap what you sow/a; it's time for the show/h; nobody has to know; I've got to go
in: snow; afterglow/r

verb: shine/hr; hold the line; cross the line/a; drink the wine; rise and shine/h
inf: be mine/r; be fine/hs
feel: fine/hs; divine/r
look: fine
like: red wine/hr; a warning sign/a; a neon sign; a valentine/r
np: a neon sign; a glass of wine; a love divine/r; the bottom line; a warning sign/a; the finish line; a heart like
    mine; the color of wine
adv: down the line; by design
tell: I see the sign; your heart is mine/r; the fault was never mine/a; our hearts align/hr; tomorrow will shine/h;
    you stepped out of line/a; I tell them I'm fine/s; you were mine/s; I drew the line/a; everything is fine/h
in: sunshine/h
across: line
down: line

verb: fall; call; crawl/sa; stand tall/ha; lose it all/s; have it all/h; hit the wall/a; give it all
feel: small/s; tall/ha
like: a waterfall
np: nothing at all; a phone call; the writing on the wall; a picture on the wall; no love at all/s; the best of all/hr
aside: after all; once and for all; most of all
tell: I heard you call; I lost it all/s; you took it all/a; I give you all/r; I want it all; we have it all/h; nobody
    calls at all/s; it's my turn to stand tall/a; for you I fall/r; I built a wall
on: wall
behind: wall
against: wall
through: hall
down: hall

verb: care; share/hr; stare; swear/a; pretend to care/sa; breathe the air; take the dare
inf: be there/hr
look: bare/s; fair/hr
own: hair/r
like: a prayer/sr; a breath of air
np: an empty chair/s; flowers in your hair/hr; a breath of air; a silent prayer; a love affair/r; the music in the
    air; a crowded stair
adv: everywhere; here and there; somewhere out there; without a care/h
aside: beyond compare/r
tell: nobody was there/s; everyone is there/h; it's not fair/sa; I'll be there/hr; you're not there/s; I don't care/a;
    there's magic in the air/hr; put your hands in the air/ha; nobody seems to care/s; I'll meet you there; I wish you
    were there
in: air; chair; evening air; open air
on: stair; chair
through: air

verb: see; agree; flee/sa; let it be; wait and see; run free
inf: be free
feel: free/ha; lonely as can be/s
look: free
np: a love for you and me/r; a place for you and me; a house by the sea; what used to be/s; the best of me; the worst
    in me/a; a cup of tea; the person I can be
adv: by the sea; as far as I can see
aside: just you and me/hr; wild and free
tell: you can't fool me/a; wait for me; come back to me/s; sing along with me/h; come dance with me/hr; don't lie to
    me/a; set me free; you and I agree; you look at me; you're made for me/r; it's haunting me/s; it comes for free/h;
    come home to me; you'll never break me, you'll see/a; come with me/hr; answer me/a
by: sea; tree; old oak tree
under: tree; apple tree
across: sea

verb: break through; start anew; pull through; believe it's true; make it through
inf: wait for you/r; forget you/a
feel: blue/s; brand new/hr; new/hr
look: blue; new/h; brand new/h
np: a sky so blue; a dream come true/hr; the best of you/r; a life without you/s; the worst of you/a; a thing or two;
    a love so true/r; a room with a view
adv: just for you; because of you; without you/s; next to you/r; out of the blue
aside: me and you/hr
tell: I miss you/s; I think of you; I'm over you/a; I'm in love with you/r; I'm through with you/a; there's nothing I
    can do/sa; dreams come true/hr; you never knew; I wish I knew/s; I see right through/a; everything is new/h; my
    heart is true; tell me what to do; I still believe in you; I'm here for you
down: avenue

verb: swoon/r; croon/hr; sing a tune; wake at noon; howl at the moon/a
inf: see you soon
own: tune
like: a red balloon; the moon; a sad old tune/s
np: a lazy afternoon; a silver moon; a happy tune/h; a lonely tune/s; a red balloon; the man in the moon; a night in
    June
adv: one day soon; all afternoon; by the light of the moon; too soon/sa; in June; before noon
tell: we're over the moon/h; I'm howling at the moon/a; you left too soon/s; I'll be home soon; I'll see you soon;
    we're dancing in June/r; it all went out of tune/sa; you hum our tune/r; time ran out too soon/s; it's nearly
    noon; your time is coming soon/a
in: afternoon; month of June
under: moon; harvest moon; July moon

verb: retire/s; catch fire; walk the wire; climb higher/ha; play with fire; join the choir/h; feel the fire
inf: call you a liar/a
feel: higher/h
own: fire/hr; desire/r
like: a fire; a liar/a; a choir/h; an empty choir/s; a live wire
np: a heart on fire; a night of desire/r; a house on fire/a; a wall of wire/sa; a gospel choir; a dying fire/s; a ring
    of fire
adv: higher and higher/hr; down to the wire; into the fire
tell: my heart's on fire; you're such a liar/a; the flames get higher; I hear the choir; you light my fire/r; we keep
    on climbing higher/h; you take me higher/hr; there's heat but no fire/s; the world's on fire/a; you never put out
    the fire
on: wire; high wire
by: fire
through: fire; wire

verb: fold/sa; get old/s; grow old; watch it unfold; find the gold/h
inf: be bold/ha; have you to hold/r
feel: cold/sa; old/s; bold/har
look: cold/sa; old; gold/hr
like: gold; a story untold
np: a hand to hold; a heart of gold; the stories we told; the lies you told/a; a ring of gold/r; a house that got
    sold/s; a tale untold; a pot of gold/h; the lies I was told/a
adv: out in the cold; before we're old
aside: never growing old/hr
tell: that's what I was told; I won't be controlled/a; you left me in the cold/s; it never gets old/h; my hands are
    cold/s; your heart is cold/a; you're mine to hold/r; the night gets cold; we're young and bold/h; the truth got
    sold/a; this love is better than gold/r
in: cold; bitter cold/sa
through: cold

verb: run; have fun; come undone/sa; cut and run/a; see the sun
inf: be the one
feel: done/sa; undone/s
like: the sun; a setting sun; a smoking gun/a; a mother's son
np: a place in the sun; the only one; the setting sun; a game nobody won/sa; a day in the sun/h; the things I've done;
    the only one/r; the damage done/sa; a lot of fun/h
adv: one by one; on the run; when the day is done; just for fun/h; under the sun
tell: we've just begun; you're the one/r; you were the one/s; here comes the sun; now I'm done/a; nobody won/sa; look
    what you've done/a; I'm not the only one; the day is done; we're having fun/h; I'm my mother's son; I'm ready to
    run; the race is won/h; two hearts are one/r
in: sun; July sun; morning sun
under: sun; burning sun

verb: drown/sa; settle down; slow down; calm down; break down/s; burn it down/a; paint the town/h; come around to town
look: brown
like: a clown; a king with a crown; a quiet town/s
np: a golden crown; a quiet town/s; a small town; the talk of the town; a long white gown/r; a heavy crown; a smile
    from a frown/h
adv: all over town; downtown
aside: upside down; up and down; down and down/s
tell: don't let me down; you let me down/sa; I won't back down/a; I'm never coming down/h; the night comes down; I'm
    leaving town; I wear a frown/s; the walls come down; you turn my world around, upside down/r; my tears fall
    down/s; the lights go down
in: town
through: town
across: town
around: town

verb: look around; stick around; turn around; come around; hear the sound; go round and round
inf: be found/hs; stand my ground/a
feel: found/hr; bound/sa; safe and sound/hr
own: sound
like: a distant sound; a merry-go-round; a hound/a
np: the sound; solid ground; a lonely sound/s; a joyful sound/h; the love I found/r; higher ground; common ground; the
    peace I found
adv: all around; round and round; without a sound
aside: safe and sound
tell: what goes around comes around/a; love is all around/hr; nobody's around/s; I'm homeward bound; my feet are off
    the ground/h; it burned to the ground/a; I hear no sound/s; I'm shaking the ground/a; you turn my life around/r;
    the world goes round
on: ground; frozen ground/s; playground/h
under: ground

verb: roar/ha; soar/h; explore/hr; ask for more; want more; lock the door/sa; walk out the door; hit the floor; keep
    score/a
inf: love you more/r
like: an open door
np: an open door; the one I adore/r; the night before; the boy next door/hr; nothing more; an old war/sa; a knocking
    at the door; tears on the floor/s; one dance more/h
adv: once more; like never before; forevermore/r; out the door; just like before
tell: I don't love you anymore/a; you're knocking on my door; I can't take it anymore/sa; who's keeping score/a; I
    don't care anymore/a; you started a war/a; we're back for more/h; I'm waiting at your door; I love you more/r;
    you're not here anymore/s; I hear the whole world roar; I've never felt like this before
on: floor; shore; other shore; dance floor/h
by: door; shore; back door
behind: door
across: floor

verb: start; fall apart/s; tear it apart/a; make art/h
inf: play my part; follow my heart; open my heart; break your heart/a
feel: smart/h; torn apart/sa
own: heart; broken heart/s; happy heart/h
like: a work of art/hr; a poison dart/a; a broken heart/s; a beating heart
np: a broken heart/s; a brand new start; a work of art/hr; a beating heart; a heart of stone, no heart/a; a place in
    my heart; the saddest part/s; the best part; a poison dart/a
adv: from the start; from the heart; with all my heart
aside: worlds apart/s; right from the start; heart to heart
tell: you broke my heart/sa; it tore us apart/sa; I know it by heart; I won't fall apart/a; you played your part; you
    stole my heart/r; I've got a happy heart/h; we're miles apart/s; it's a brand new start; don't break my heart;
    we'll never part/r; I knew it from the start

verb: take aim/a; play the game; take the blame/sa; feel the same; feed the flame; feel no shame/ha
inf: call your name
look: the same
own: name; flame/r
like: a flame; a game; a moth to a flame; a losing game/sa
np: your name; a photo in a frame; a losing game/sa; someone to blame/sa; a burning flame; a brand new game/h; your
    only claim to fame/a; a sweet old name; fortune and fame
adv: since the day you came
aside: all the same
tell: I call your name; nothing is the same; who's to blame/sa; you whisper my name/r; I remember your name; it's a
    crying shame/s; I won't play your game/a; you're to blame/a; I'm glad you came/h; you forgot my name/s; I'll never
    be the same; we're winning the game/h; shame on your name/a; I love to say your name/r
in: game; frame; hall of fame/h

verb: race; embrace/r; leave no trace; slow the pace/r; win the race/h; pick up the pace
inf: find my place; show my face/sa; touch your face/r
feel: out of place
own: face; grace/r; embrace/r
like: an empty space/s; a hiding place; a slap in the face/a; a saving grace
np: a smile on your face; a better place; a warm embrace/r; an empty space/s; the tears on my face/s; a slap in the
    face/a; amazing grace; a meeting place; the look on your face
adv: all over the place; without a trace; at my own pace; in this place
aside: face to face
tell: I'm lost in space; get out of my space/a; I need some space/a; I see your face; nobody takes your place; we're
    gonna win this race/h; I miss your face/s; you put a smile on my face/hr; I know my place; my heart begins to
    race; you're gone without a trace/s; I'll put you in your place/a
in: place; race; empty space/s; crowded place
through: space

verb: smile; wait a while; stay a while; walk a mile; go in style/h; sit a while; run a mile/a
inf: make you smile
own: smile
np: a crooked smile; a lonely mile/s; a wicked smile/a; your sweet smile/r; the reason I smile/hr; the longest mile; a
    pretty smile; an old man's smile
adv: for a while; mile after mile; once in a while; all the while; with a smile
aside: in style
tell: it takes a while; that's not my style/a; you don't even smile/s; it makes it all worthwhile/hr; you make me
    smile/hr; wipe off that smile/a; I fake a smile/sa; it's been a while; walk with me a mile; I haven't seen you
    smile/s; we're living in style/h; I'd walk another mile
down: aisle/r

verb: sleep; weep/s; leap/h; creep/a; fall asleep; dig deep; take the leap/hr
inf: cry myself to sleep/s
feel: cheap/a; deep/r
look: deep; asleep; cheap/a; steep
np: a vow to keep; a word to keep; a love so deep/r; a hole so deep/s; a night of sleep; a wound so deep/sa; memories
    to keep
adv: in my sleep; while you're asleep; down deep; before I sleep
tell: talk is cheap/a; I'm losing sleep; I'm in too deep; I cry myself to sleep/s; I'm yours to keep/r; you won't see
    me weep/a; the cut is deep/sa; the world is half asleep; I can't sleep; we're too happy to sleep/h; your words are
    cheap/a; the feeling runs deep; some things are ours to keep

verb: dream; scream/a; gleam/h; beam/h; live the dream; chase a dream; follow the stream
own: dream
like: a dream; a scream/a; a sleepy stream; a fever dream; a laser beam
np: a beautiful dream; a winning team/h; a silent scream/sa; a broken dream/s; more than a dream; the perfect team/hr;
    an old dream; a fever dream; a dirty scheme/a
adv: in my dream; down by the stream; just like a dream
tell: it's only a dream; things are not what they seem; you hear me scream/a; you're my favorite dream/r; it was only
    a dream/s; we make a good team/h; I see through your scheme/a; I want to live this dream/h; I lost my dream/s;
    you're in my dream; I'm letting off steam/a
in: dream; stream; bad dream/sa
by: stream
through: dream; steam

verb: meet; retreat/sa; cheat/a; feel the heat; hit the street; hear the beat
inf: move my feet; stay on my feet
feel: complete/hr
look: sweet/hr
own: heartbeat/r
like: a heartbeat
np: an empty street/s; the sound of your feet; the taste of defeat/sa; a steady beat; your heartbeat/r; a one-way
    street; a kiss so sweet/r; an empty seat/s; a tasty treat/h
adv: on repeat; to the beat; down the street; in the heat
tell: I feel the beat; I'm back on my feet; you make me complete/r; revenge is sweet/a; life is so sweet/h; I move my
    feet; you're in the driver's seat; I'm dead on my feet/s; you knock me off my feet/r; I won't accept defeat/a; I
    taste defeat/s; we're dancing in the street/h; the city's at our feet; you lie and cheat/a
in: street; heat; July heat; back seat
on: street; concrete
across: street
down: street

verb: feel; heal/s; kneel/sr; steal/a; make it real; cut a deal/a; spin the wheel; keep it real
inf: make you feel/r
feel: real
look: real; unreal
like: steel; a turning wheel; a Ferris wheel
np: the way I feel; a heart of steel/a; a love so real/r; a hand on the wheel; nothing real/s; nerves of steel; the
    way you feel/r; a dirty deal/a; something real; a dream so real; the big deal/h
adv: for real; at the wheel
tell: this is how I feel; none of it was real/s; what's the big deal/ha; time will heal/s; there's nothing left to
    steal/sa; I want something real; I know it's real; this love is real/r; tell me how you feel; I can't say how I
    feel; you broke the deal/a; it feels unreal/h
at: wheel
behind: wheel

verb: pretend; bend; mend/s; defend/a; see the end; make a friend/h; reach the end; meet a friend
inf: be your friend
like: a friend; a dead end/a; a long lost friend
np: a friend; a dead end/sa; a heart to mend/s; more than a friend/r; the bitter end/sa; a hand to lend; the letters I
    send; a brand new friend/h; a night to spend; a love without end/r
adv: in the end; around the bend; until the end; all weekend; to the end
tell: you're my friend; you're no friend/a; this is the end; I lost a friend/s; we're friends to the end/h; I won't
    pretend; it has to end; I lie and pretend/s; it's the weekend/h; you're more than a friend/r; I won't bend/a;
    hearts will mend; you never had to pretend
around: bend
until: end

verb: rest; head out west; pass the test; get some rest
inf: do my best; beat my chest/a
feel: blessed/hr; obsessed/ar
like: a treasure chest; a welcome guest/hr
np: the best; a weight on my chest/s; an eagle's nest; a final test; a night of rest; the very best/hr; a heart in my
    chest; a rage in my chest/a; one last request
adv: out in the west; at your request; east to west
aside: more than the rest
tell: I tried my best; I can't get no rest/s; I'm not impressed/a; forget the rest; I'm truly blessed/hr; you never
    guessed; I'm put to the test; you know me best; you're the best/hr; I get it off my chest/a; I know what's best; I
    need some rest/s; don't put me to the test/a; we're looking our best/h
in: west; wild, wild west

verb: hide; ride; slide; decide; stay inside; collide; go outside; turn the tide; feel the anger inside/a
inf: swallow my pride/sa; let you inside; stay by your side/r
feel: alive inside/hr; dead inside/s; warm inside/hr; empty inside/s
look: wide
own: side; pride; bride/r
np: my foolish pride; a place to hide; the other side; a wild ride/ha; the tears I cried/s; the changing tide; a
    hunger inside; the nights I cried/s; the love inside/r
adv: deep inside; on the other side; along for the ride
aside: side by side; far and wide
tell: I cried/s; there's nowhere to hide; you lied/a; I lost my pride/s; I'm on your side; what a ride/h; our worlds
    collide; you ran to hide/a; at least I tried; everyone lied/a; I want you by my side/r; we're enjoying the ride/h;
    my heart is open wide/hr; I wait outside; I keep it all inside; a piece of me died/s; I've got my pride/a
on: other side
against: tide
with: tide

verb: fly; cry/s; try; say goodbye; lie/a; reply; wonder why; reach the sky/h; sigh/sr; get by; deny
inf: look you in the eye
feel: shy/r; high/h
look: dry; high
own: lie/a; goodbye/s; lullaby/sr
like: a butterfly; a lullaby; a bird in the sky
np: a reason why; a long goodbye/s; a dirty lie/a; a bird in the sky; a lullaby; one last try; a July sky; the apple
    of my eye/r; a tear in my eye/s; a rage in my eye/a; a piece of the sky
adv: high in the sky; by and by
aside: you and I; do or die/a; one last try
tell: I don't know why; days go by; you catch my eye/r; let me try; watch me fly/ha; I watch the days go by; I never
    said goodbye/s; I won't cry; I want to know why; I'm sick of every lie/a; you look me in the eye; we're touching
    the sky/h; I could die/s; the clouds roll by; you told another lie/a; I'm flying high/h; I'm yours until I die/r
in: sky; July sky
under: sky; open sky
across: sky

verb: stand alone; pick up the phone; sleep alone/s; dance alone; claim the throne/a
inf: be alone; go on my own; find my own; leave you alone
feel: alone/s; grown/h; unknown/s; all alone/s
like: a stone; a rolling stone; a dog with a bone/a; a king on a throne; a saxophone
np: a heart of stone/sa; a rolling stone; an empty throne; the best love I've known/hr; a voice on the phone; the
    seeds we've sown; a silent phone/s; a home of our own/hr; a king without a throne; skin and bone/s
adv: on my own; on the phone; into the unknown
aside: all alone
tell: leave me alone/a; I wait by the phone; you should have known/a; I feel it in my bone; look how we've grown/h;
    you're never alone/hr; it's carved in stone; I should have known/s; I'm better on my own; you never pick up the
    phone; I sit here all alone/s; I don't want to be alone; I'm taking back the throne/a; you're the best I've
    known/r
in: great unknown
on: phone; stone; throne
by: phone

verb: belong; sing along; stay strong; go wrong; play along; write a song; get along/h
inf: be strong; prove you wrong/a
feel: strong/ha; wrong/sa
look: long; wrong/sa
own: song; favorite song; love song/r
like: a song; a favorite song; an old love song; a marching song
np: a song; the same old song; a love song; a place to belong; a list of every wrong/a; a love so strong/r; a brand
    new song/h; a sad, sad song/s; a way too long; right and wrong
adv: all day long; all along; all night long; for so long
aside: right or wrong
tell: it won't be long; I was wrong/s; you were wrong/a; this is where I belong; I sing my song; something went
    wrong/s; come along; you did me wrong/a; nothing can go wrong/h; our love is strong/r; you've been gone so long/s;
    with you I belong/r; we sing along/h; I'm proving them wrong/a; two hearts sing one song/r; I've waited so long;
    do me wrong/a

verb: stand; understand; make a stand/a; join the band/h; reach dry land; lend a hand; meet the band
inf: take your hand; hold your hand/hr
look: grand
own: hand
like: a castle in the sand; a helping hand; a one-man band; a golden band/r
np: a castle in the sand; a helping hand; a ring on my hand/r; the life we planned; a line in the sand; the back of my
    hand/a; footprints in the sand; a marching band/h; a promised land; the touch of your hand
adv: just as we planned; across the land
aside: hand in hand/hr; here where I stand
tell: nothing went as planned/s; it got out of hand/a; one day you'll understand; take my hand; try to understand; I
    make my stand/a; we're dancing to the band/h; you'd never understand/sa; give me your hand/r; we walk hand in
    hand/hr; I draw a line in the sand; I can't understand; I lost your hand/s
in: sand; promised land; band; palm of my hand
on: sand; dry land
across: land; sand

verb: wake; break/sa; shake; stay awake; ache/sr; give and take; bake a cake/h; make no mistake; feel the ache/s
feel: awake; fake/sa; wide awake
look: fake/a
like: a snake/a; an earthquake; a frozen lake/s; a piece of cake/h
np: a big mistake/sa; a slice of cake/h; a hand to shake; the chance to take; a frozen lake; the vows we make/r; the
    choices we make; a vow to break/sa; the love we make/r; my one mistake/s
adv: for your sake; every step I take
aside: wide awake; for heaven's sake
tell: you're nothing but a snake/a; it makes me ache/s; everything is fake/a; I'm wide awake; it was my mistake/s; you
    give, I take; my heart can break/s; it's all mine to take/a; what a difference you make/hr; I lie awake; it's a
    piece of cake/h; it's more than I can take; the ground begins to shake; it's for love's sake/r
by: lake
across: lake

verb: fade; get paid; start a parade/h; make a trade; sit in the shade; serenade/r
inf: be afraid/sa
feel: afraid/s; betrayed/sa; unafraid
own: serenade/r
like: a blade/a; a parade; a masquerade; lemonade/h; a serenade/r; a charade/sa
np: the plans we made; the vow we made; the price I paid/sa; the mess you made/a; the songs we played; a place in the
    shade; a glass of lemonade/h; the life we made; the games you played/a; a serenade/r; the choice I made
adv: in the shade
aside: unafraid
tell: I should have stayed/s; I've got it made/h; the debt is paid; I know you prayed; I've been betrayed/a; my
    memories fade/s; I'm not afraid; the band played; every night I prayed; it's a masquerade; you know I stayed/r;
    our love won't fade/r; you threw me the shade/a; we're front of the parade/h
in: shade; parade; arcade; masquerade

verb: wait; hate/a; celebrate/h; hesitate; create; lift the weight; set it straight/a; feel the weight/s
inf: be late/s; change my fate
feel: great/h; late
look: late; great/h
like: a heavy weight/s; a twist of fate; a first date/r; a locked gate/sa; a clean slate
np: a twist of fate; a first date/r; a locked gate/s; a clean slate; a heart full of hate/a; the heavy weight/s; the
    iron gate; a love so great/r; a day to celebrate/h
adv: a little too late; outside your gate; up late
aside: better late
tell: it's getting late; it must be fate; I can hardly wait/hr; it's far too late/s; I can't carry the weight; there's
    no need to wait; life is great/h; I lie here and wait/s; let me set it straight/a; don't hesitate; you sealed your
    fate/a; I found my soul mate/r; I'm sick of all the hate/a; I know it's fate/r; they lock the gate
by: gate; iron gate
at: gate

verb: sing; swing/h; cling/sr; lose everything/s; wear the ring/r; feel the sting/sa; risk everything
inf: be king; do my thing
like: a king; a toy on a string; a bird on the wing; a boxing ring/a; a puppet on a string/sa; the first day of
    spring/hr
np: a broken wing/s; a golden ring; the first day of spring; everything; the joy you bring/hr; the pain you bring/sa;
    the songs we sing; a song to sing; a beautiful thing/hr; not a single thing; a heavy swing/a
adv: more than anything; in the spring; like a king
tell: I hear the bells ring; you're my everything/r; I lost everything/s; do your thing/h; the phone won't ring/s; I
    wait for spring; I feel like a king; it don't mean a thing/a; the birds sing; I still wear the ring/s; I say I do,
    I wear your ring/r; I don't owe you anything/a; you hear me sing; it's a funny thing
in: spring; early spring
on: swing; string; porch swing
under: wing

verb: burn; turn; learn; return; yearn/sr; twist and turn; watch it burn/a; live and learn
inf: wait my turn
like: a wrong turn/sa; a slow burn/r
np: a lesson to learn; a house to burn/sa; the trust we earn; a slow burn/r; the wrong turn; point of no return; a
    trust to earn; a fever burn/a; a place to return
adv: at every turn; when you return
tell: it's my turn; let it burn/a; you'll never learn/a; for you I yearn/r; the tables turn; it's our turn/h; I wait
    for your return/s; the candles burn; we live and learn; the seasons turn; I've lessons to learn; you won't
    return/s; there's so much to learn; the wheels all turn
around: turn

verb: hear; disappear; cheer/h; shed a tear/s; interfere/a; face the fear; sneer/a; feel no fear; feel the fear/s
inf: pull you near/r; keep you near
feel: near/r; clear
look: clear; near
like: a souvenir; a tear/s; a brand new year/h
np: another year; a single tear; nothing to fear; a souvenir; the voice I hear; a whisper in my ear/r; a world without
    fear; a brand new year/h; the end of the year; all I fear/s; the words you hear
adv: year after year; this time of year; from ear to ear/h; from far and near
aside: loud and clear; my dear/r
tell: you're not here/s; everybody's here/h; get out of here/a; hold me near/r; let me make it clear/a; I'm so glad
    you're here/hr; the end is near/sa; I want you near/r; the sky is clear; it's all I hear; I wish that you were
    here/s; it's our year/h; I have no fear/a; you disappear; I've shed my last tear
through: year; tear/s

verb: go too far/sa; start the car; play guitar; follow the star; sleep in the car; travel far; reach that star/h;
    feel like a star/h
inf: wonder where you are
feel: so far/s
look: far
own: guitar
like: a star; a shooting star; a stolen car/a; an old guitar; a fallen star/s; a rising star/h
np: a shooting star; a fast car; an old guitar; a hidden scar; the way you are/r; a brand new car/h; my lucky star/hr;
    the brightest star; a battle scar/a; an empty bar/s
adv: so far; wherever you are; from afar; in my car
aside: near and far
tell: who do you think you are/a; this is who we are; we've come so far; you took it too far/a; here we are; I'm alone
    at the bar/s; it left a scar/sa; we're going far/h; I love you as you are/r; I wonder where you are; I wish upon a
    star; I'm sleeping in my car; you are my star/r; I'll be a star/h; it's so far
in: car; bar
by: car; bar

verb: chill/h; stand still; sit still; spill; lie still; climb the hill; feel the thrill/h; foot the bill/a; hold
    still; pay the bill; feel the chill/s; feel the thrill/hr
feel: still; ill/s
look: still
np: a house on the hill; a strong will; a cheap thrill/a; the evening chill; an unpaid bill/sa; a morning chill/s; a
    brand new thrill/h; the view from the hill; a moment of thrill
adv: over the hill; against my will/sa; up the hill
tell: I love you still/r; I always will; I miss you still/s; you never will/a; time stands still; I'm hurting still/s;
    you pay the bill/a; I'm standing still; what a thrill/h; the world is still; I think I always will; we're the
    kings of the hill/h; you know I will; you give me a thrill/r
in: evening chill
on: hill; windowsill
down: hill
over: hill

verb: get ahead; stay in bed; see red/a; lie in bed; break the bread; forge ahead
inf: bow my head/s; use my head; lift my head
feel: dead/s; well fed/h
look: red
like: a needle and thread; a cheek so red/r; an unmade bed/s; a bull that sees red/a
np: the words you said; the words unsaid/s; the lies you said/a; the voice in my head; the way ahead; the life we led;
    an empty bed/s; lips so red/r; a roof overhead; the things I said; a loaf of bread; the tears I shed/s
adv: inside my head; over my head; full speed ahead; instead; up ahead; above my head
tell: you're in my head; I hang by a thread; I'm seeing red/a; you turn my head/r; I can't get out of bed/s; remember
    what you said; we paint the city red/h; I know what you said; the roses are red/r; I cry instead/s; we laugh
    instead/h; I heard what you said/a; a song is in my head; I'm going straight ahead
in: bed
on: bed

verb: knock; rock/h; pick the lock; turn the lock; race the clock; walk the block; punch the clock; stop the clock;
    rock around the clock/h; feel the shock/sa
like: a ticking clock; a rock; a gate without a lock/s; an aftershock/a
np: the hands of the clock; a ticking clock; a chain without a lock; a boat at the dock; a state of shock; the end of
    the block; a sudden knock; a rusty lock; a broken clock/s; the first to rock/h
adv: around the clock; down the block; around the block
aside: steady as a rock
tell: I hear you knock; I watch the clock; you are my rock/r; I change the lock/a; we're ready to rock/h; the whole
    world's in shock; I turn back the clock; I run the block; we own the block; I stopped the clock/s; you open my
    lock/r; I throw a rock/a; you're hard as a rock/a; I sit by the clock/s
on: block; dock; rock
by: clock; dock
around: block; clock

verb: come back; fight back/a; fade to black/s; turn back; look back; attack/a; hold back; step back; hit the track/h
inf: call you back
look: black; pitch black
like: wheels on the track; a heart attack; an old tin shack; a dog in a pack
np: a way back; a knife in my back/a; a lonely track/s; a favorite track; a heart attack; a dress of black/s; wheels
    on the track; an old tin shack; a pat on the back/h; a love come back/r
adv: there and back; behind my back/a; out the back
aside: all in black
tell: there's no turning back; I want you back; I'm taking it back/a; I'll be back; you've got my back/hr; no one
    calls me back/s; there's no way back; I'm never coming back; the sky turns black/s; we're on the right track/h;
    you love me back/r; I'm fighting back/a; I won't look back; you stab me in the back/a; the good days are back/h
in: black; shack
on: track; right track/h
down: track

verb: unwind; rewind; fall behind; leave it behind; press rewind
inf: be kind/hr; change my mind; make up my mind; speak my mind/a; lose my mind
feel: blind/sa; kind/h; intertwined/r; left behind/s
look: kind/hr; blind
own: mind
like: two hearts intertwined/r; a thief with a knife behind/a
np: a peace of mind; one of a kind; the ones we left behind; a piece of my mind; a love so kind/r; a treasure to find;
    a love that's blind; an open mind; a friend so kind/h; a troubled mind/sa
adv: in my mind; one step behind
tell: you're on my mind; I lost my mind; you're so unkind/a; love is blind/r; I don't mind; I'm left behind/s; you're
    one of a kind/hr; I'm out of my mind; you ease my mind; our hearts are aligned/hr; never mind; you rob me blind/a;
    I look behind; I don't know what I'll find; life is kind/h; you read my mind/r; I've made up my mind/a

verb: win; begin; give in; spin; fit in; grin/h; cave in/s; jump in; let love in/r
inf: let you in; count me in
look: thin/s
own: skin; grin; violin/r
like: a violin; a lucky win/h; a cat with a grin
np: the touch of your skin/r; a violin; a lucky win/h; a wicked grin/a; a place to begin; a fight to win/a; the mess
    I'm in/s; a silly grin; the hunger within; the state I'm in/s
adv: through thick and thin; deep within
aside: lose or win
tell: let me in; I don't know where to begin; you won't win/a; we begin; the walls close in/sa; I'm home in my skin/h;
    let the good times begin/h; you're under my skin; I can't win/s; you let me in/r; the tears begin/s; I'm in this
    to win; I'm paying for my sin; our love will win/r; here comes the grin/h; this is a war I'll win/a
under: skin
"""

# The shapes of a section: its rhyme scheme, a letter a line, and the syllables of its lines in turn.
FORMS = """
verse pop: AAAA 9; AAAA 9 8
verse rap: AAAAAA 10; AAAAAA 11
verse rock: AAAA 9 7; AAAA 8
verse rb: AAAA 10; AAAA 10 9
chorus pop: AAAA 8; AA 9
chorus rap: AA 8; AA 9
chorus rock: AAAA 8; AAAA 8 7; AA 8
chorus rb: AAAA 9 8; AAAA 8; AA 9
bridge pop: AA 8
bridge rock: AA 8
bridge rb: AA 9
"""

# What leads to the rhyme word, by what the word is; the word itself follows. A lead goes after a comma, or after "and",
# unless it begins with "~", which binds it to the clause. `{prep}` is the noun's own preposition.
ENDINGS = """
verb any: I want to; I'm learning to; I watch you; I try to; we never; you know I; you help me; I only want to; let
    me; it's time to; I still; we both; I know you; I need to; ~when I; ~till we; ~every time I; ~before you; ~while
    we; ~the way you; ~whenever we; ~as we
inf any: I want to; I'm learning to; I try to; I only want to; let me; it's time to; I need to; I was born to; I'd
    love to
inf happy: I'm ready to; I can't wait to; it feels good to; I'm happy to; finally I can
inf sad: I can't; I'm too tired to; I never learned to; I don't know how to; it hurts to; I used to
inf angry: I won't; I refuse to; I don't need to; I was a fool to; watch me
inf romantic: all I want is to; I dream to; I long to; with you I can
verb happy: we're ready to; you make me; we love to; I can't wait to; my friends all; it feels good to; tonight we;
    come on, let's; ~because we
verb sad: I can't; I'm too tired to; I never learned to; now I just; nobody sees me; I forget how to; it hurts to; I
    don't want to; I don't know how to; ~since I watched you
verb angry: I won't; don't tell me to; watch me; you won't see me; you made me; I don't need to; I refuse to; you
    can't make me; go on and; I dare you to; I was a fool to
verb romantic: I love how you; hold me while I; come with me and; I melt when you; stay with me and; you make me; with
    you I; all I want is to; kiss me when you; I dream that we; ~so close we
verb pop: oh, I just; oh, watch me; we don't stop, we; hey, hey, we
verb rap: you know we; my people; I had to; I was raised to; all my homies; you know my people
verb rock: I was born to; we live to; no, we never; come on and; we're loud when we
verb rb: baby, let's; ooh, I just; don't make me; slowly we; ooh, you
feel any: I feel; I'm still; we feel; today I'm; it makes me feel; you make me feel; ~when I feel; ~till I'm
feel happy: finally I'm; finally we're; the world feels
feel sad: I'm left; now I'm; the days feel
feel angry: I'm still; you left me; you make me
feel romantic: we both feel; your love feels; with you I feel
look any: the {view} is; the {view} looks; ~while the {view} is; ~till the {view} is; the whole {view} is; tonight the
    {view} is
look sad: every {view} is; the empty {view} is
look angry: even the {view} is
look romantic: for us the {view} is
look happy: oh, the {view} is
own any: I remember your; it's all for your; I need your; I think about your; I know your; you showed me your;
    ~because of your; I dream about your
own happy: I love your; you give me your; thank you for your; I'm proud of your
own sad: I miss your; I lost your; I can't forget your; I cry for your
own angry: I don't need your; go take your; I'm sick of your; you can keep your
own romantic: I live for your; I want your; I adore your; I'd die for your
noun any: ~{prep} the; ~{prep} the {hue}; ~{prep} the {hue}; I'm {move} {prep} the; I'm {move} {prep} the {hue}; we're
    {move} {prep} the; we're {move} {prep} the {hue}; you're {move} {prep} the; ~{where} {prep} the; ~{where} {prep}
    the {hue}; ~while I'm {move} {prep} the
like any: I feel like; you move like; it feels like; you look like; it sounds like
like happy: I shine like; we laugh like; I sing like
like sad: I fade like; I fall like; you left me like
like angry: I burn like; you hit me like; I fight like
like romantic: you hold me like; I love you like; you glow like
np any: I remember; all I have is; all I need is; I think about; there's still; you gave me; this is; I can't forget;
    I dream about; it's all about
np happy: I found; thank you for; I love; we've got; I'm happy with
np sad: all that's left is; I'm left with; I cry about; I'm losing; it's only
np angry: I don't need; I'm sick of; you can keep; I'm fighting for; you threw me
np romantic: I dream of; I adore; give me; you bring me; love is
adv any: ~; ~; I'm {move}; we're {move}; I'm still here; I think of you; I'll find you
aside any: ,; ,; , oh,; , still
tell any: ; ; oh,; you know
"""

# What may fill a slot. "hue" suits anything, "adj" suits things.
SLOTS = """
cry pop: oh
cry rap: yeah
cry rock: hey
cry rb: ooh
and any: , and; , and; , and; , but; ,; , so
hue any: old; quiet; distant; little; hidden; open
hue happy: happy; golden; lucky; sweet; brand new; bright; shiny; sunny; perfect; merry
hue sad: lonely; lost; tired; silent; broken; cold; weary; forgotten; empty; fading
hue angry: angry; wild; wicked; bitter; heartless; burning; rotten; ugly; cruel; crooked
hue romantic: tender; gentle; lovely; sweet; precious; dearest; soft; dreamy; warm; graceful
hue pop: pretty; sparkling; neon; electric; modern; crazy; dazzling; fresh
hue rap: hungry; heavy; solid; restless; real; fearless; hard; busy
hue rock: restless; screaming; ragged; electric; loud; rowdy; stubborn; savage
hue rb: smooth; mellow; midnight; honey; silky; easy; velvet; slow
adj any: old; little; simple; second; silver; wooden; hidden; favorite
adj happy: golden; lucky; shiny; brand new; sunny; painted; bright; silly; happy; fancy
adj sad: broken; faded; empty; dusty; fragile; lonely; cold; worn-out; forgotten; torn
adj angry: rusty; cheap; dirty; ruined; poisoned; crooked; bitter; rotten; stolen; ugly
adj romantic: velvet; tender; scarlet; starlit; precious; warm; soft; candlelit; lovely; gentle
adj pop: neon; plastic; sparkling; pink; crystal; trendy; glossy; pretty
adj rap: heavy; solid; fresh; concrete; real; city; busy; borrowed
adj rock: leather; ragged; iron; electric; loud; steel; filthy; battered
adj rb: satin; smooth; midnight; mellow; silky; honey; easy; late-night
thing any: coat; notebook; postcard; shirt; sweater; pocket; box; pillow; lamp; table; book; bag; camera; song; name
    tag; chair
thing happy: present; kite; ice cream; swimsuit; picnic; trophy
thing sad: teardrop; picture; bandage; scarf; raincoat; tombstone
thing angry: fist; contract; broken glass; warning; bruise; excuse
thing romantic: valentine; kiss; locket; love note; bouquet; pearl
thing pop: lipstick; playlist; selfie; T-shirt; record
thing rap: notepad; rhyme book; paycheck; hoodie; verse; beat
thing rock: drum; amplifier; six-string; engine; backstage pass
thing rb: slow jam; red wine; groove; bass line; silk sheet
place any: hallway; sidewalk; alley; corner; porch; backyard; market; field; hillside; platform; doorway; courtyard
place happy: beach; park; playground; fairground; orchard
place sad: graveyard; waiting room; hospital; back row; empty house
place angry: courtroom; battlefield; wasteland; back alley; ruins
place romantic: ballroom; terrace; fountain; balcony; hidden spot
place pop: mall; boulevard; pool; disco
place rap: block; projects; studio; bus stop; corner store
place rock: garage; basement; stadium; barroom; back road
place rb: bedroom; lounge; penthouse; living room
view any: sky; world; night; city; street; morning; view; room; evening
sky any: morning; evening; weather; sky; world; breeze; season; daylight; night; city; town
sky happy: sunshine; holiday; music
sky sad: silence; darkness; twilight
sky angry: fever; pressure; siren
sky romantic: starlight; heartbeat; springtime
sky pop: weekend; chorus; rhythm
sky rap: corner; bassline; traffic
sky rock: feedback; downbeat; engine
sky rb: groove; midnight; slow song
moves any: is calling; is waiting; is changing; keeps turning; slips away; comes early; won't wait; calls my name;
    goes by; knows us well; follows me; turns around; takes me home
moves happy: is singing; is laughing; is dancing; says hello; smiles at us; wakes me up; opens wide; feels like home;
    picks me up; cheers for us; is shining
moves sad: is fading; is crying; is falling; leaves me here; says goodbye; hides from me; feels so cold; breaks my
    heart; falls apart; forgets me; hurts again
moves angry: is burning; is howling; is raging; shuts me out; turns on me; laughs at me; hits back; tears me up; lies
    to me; makes me shout; starts a fight
moves romantic: is glowing; is blushing; holds us close; slows for us; sings to us; keeps us warm; leads me to you;
    wraps us up; brings you near; adores you
body any: heart; heart; mind; soul
beats any: is open; is moving; remembers; won't listen; is ready; is waiting; is changing; won't settle; wanders
beats happy: is singing; is dancing; is floating; lights up; feels brand new; is soaring; is flying
beats sad: is breaking; is aching; is heavy; is empty; keeps hurting; goes silent; is fading; feels nothing
beats angry: is burning; is boiling; is pounding; won't forgive; keeps shaking; turns to stone; is racing; wants
    justice
beats romantic: is melting; is longing; is yours now; belongs to you; is trembling; opens up; calls to yours
mood any: awake; ready; human; restless
mood happy: young; alive; lucky; dizzy; warm; golden; brave; thankful; weightless
mood sad: cold; lost; weary; hollow; heavy; small; numb; lonely; helpless
mood angry: mad; reckless; bitter; cheated; furious; sick; wild; dangerous; used
mood romantic: tender; helpless; safe; dreamy; breathless; weak; close; chosen; beautiful
move any: waiting; standing; walking; sitting; moving; talking; hoping
move happy: dancing; laughing; singing; playing; cheering; jumping
move sad: crying; drifting; sinking; hiding; trembling; hurting
move angry: screaming; fighting; cursing; shouting; burning; stomping
move romantic: kissing; dreaming; swaying; whispering; melting; blushing
move pop: glowing; spinning
move rap: rolling; hustling; rapping
move rock: racing; rocking; roaring
move rb: grooving; gliding
where any: far away; one more time; once again; back again; somewhere
where happy: hand in hand; safe and sound; having fun
where sad: all alone; on my own; lost again
where angry: face to face; toe to toe; out for blood
where romantic: cheek to cheek; hand in hand; close to you
when any: every night; every morning; late at night; in the evening; after midnight; now and then; once again; in my
    mind; day by day; some days; most nights; all week long; when you call me; when I'm dreaming; somehow; sometimes;
    tonight; today; still; now; on a Sunday; before daybreak
when happy: on a lucky day; all season long; with a smile; hooray,; believe me,; since I met you; on the weekend; dear
    friends,
when sad: since you left me; now you're gone; without you; on my worst days; oh Lord,; when it's quiet; in the
    silence; after goodbye
when angry: this time; from now on; no more games,; I swear; after your lies; hear me,; for the last time; enough,
when romantic: my love,; darling,; with you here; when you hold me; in your arms; sweetheart,; close to you; when
    we're kissing
when pop: oh,; hey,; oh oh,; na na,; on Friday night
when rap: yeah,; look,; listen,; real talk,; no joke,; on my block; uh,; check it,
when rock: come on,; all right,; hey hey,; way back when; miles from home; let's go,
when rb: baby,; ooh,; sugar,; mm,; slow down,; honey,; ooh baby,
stuff happy: gold; joy; luck; sunshine; laughter; wonder
stuff sad: tears; sorrow; goodbyes; silence; regret; lost days
stuff angry: rage; lies; thorns; trouble; broken glass; steel
stuff romantic: love; desire; kisses; longing; passion; dreams
see any: see; remember; watch; dream of; think of; sing about; talk about; wait for; believe in
see happy: love; cheer for
see sad: miss; cry for
see angry: hate; fight for
see romantic: adore; long for
"""

# Clauses that open a line of a verse or a bridge; each may also follow {when}.
HEADS = """
any: I hear your {hue} voice; I wear your {adj} coat; I keep your {adj} picture; I hold your {hue} hand; I read your
    {hue} words; you left your {adj} shoes; you took my {hue} heart; we share a {adj} room; I found a {hue} place; you
    called me {mood}; I sing a {hue} song; I carry your {hue} name; we built a {adj} house; I count the {hue} hours; I
    count the {hue} days; you have a {hue} smile; I see your {hue} face; I live in {hue} dreams; I write my {hue}
    story; the {hue} night is calling; the {hue} day is over; the {hue} lights are burning; the {hue} hours pass by; I
    follow your {hue} footsteps; I sleep in {adj} rooms; you changed my {hue} mind; my {hue} heart remembers; my {hue}
    hands are open; your {hue} eyes are open; I feel {mood} and {mood}; we feel {mood} and {mood}; I feel so {mood};
    we stay {mood}; this {place} is mine; that {place} is gone; my {thing} is gone; your {thing} is here; I'm still
    {move}; we're still {move}; you're still {move}; I keep my {thing}; I drop your {thing}; I know this {place}; meet
    me {move}; I keep on {move}; you keep on {move}; we were so {mood}; you were {mood}; I brought my {adj} {thing};
    you wear my {adj} {thing}; meet me at the {place}; you know the {hue} {place}; I wait for {hue} news; I look for
    {hue} signs; you told me {hue} stories; I miss our {hue} home; I know your {hue} heart; there's a {hue} light
    burning; there's a {hue} feeling; it's a {hue} morning; it's a {hue} evening; all my {hue} friends are waiting; I
    walk the {hue} {place}; I pass the {adj} {place}; we meet at the {place}; we left the {hue} {place}; I know every
    {adj} {place}; I need my {adj} {thing}; I found your {adj} {thing}; you gave me a {thing}; I carry a {adj}
    {thing}; you left me a {adj} {thing}; I lost my {thing}; the {sky} {moves}; the {hue} {sky} {moves}; my {body}
    {beats}; your {body} {beats}; my {hue} {body} {beats}; my {body} {beats} and the {sky} {moves}; I feel {mood} and
    the {sky} {moves}
happy: I can't stop {move}; I love this {place}; I bring my {thing}; we laugh out loud; good things are coming; life
    tastes like candy; the whole room sparkles; we clap our hands; I jump for joy; we own the day; my troubles vanish;
    we found our luck; my feet keep tapping; we spin around; I wave at {hue} people; I wake up {move}; it all works
    out; nothing can stop us; we made it here; I hug my {hue} friends; I feel like {move}; I love this {hue} life; joy
    fills the {place}; we shout hooray; I'm smiling; we did it; I've got a {hue} feeling; we bring the {adj} {thing};
    my {hue} luck is turning
sad: I cry at night; I miss that {place}; I miss your {thing}; I lost my way; you never called; I'm missing you; the
    {hue} tears keep falling; nothing helps me; I sit and wonder; you left too early; I miss your {hue} laughter; the
    {hue} house is empty; I can't move on; my {hue} hope is gone; I talk to no one; the days are gray; I hear your
    footsteps; nobody asks me; I should have told you; I set your table; it hurts to breathe; I watch you leaving;
    you're gone; I'm hurting; I wait for nothing; I cry in the {place}; your {adj} {thing} is all I have; I kept the
    {adj} {thing} you wore
angry: you lied to me; I hate this {place}; you stole my {thing}; I slam the {adj} gate; I've had enough; you broke
    your word; I see through you; I'm breaking out; you pushed too far; I bite my tongue; I want it back; you took my
    {thing}; don't you touch me; I shake with anger; you turned on me; I clench my fists; no more excuses; you owe me
    answers; I tear it up; you stabbed my back; I spit it out; I'm not your servant; you make me sick; I won't forgive
    you; get off my case; I'm raging; you cheated; I kick your {adj} {thing}; I break the {adj} {thing}; I curse your
    {hue} name
romantic: I fall for you; you kissed me {move}; kiss me in the {place}; I keep your {thing}; you kiss my {hue} cheek;
    you hold me close; I lose my breath; you call me darling; I whisper softly; you touch my fingers; I want you near;
    we move as one; I trust your heart; you are my morning; I need your {hue} kisses; you make me blush; we share a
    {adj} pillow; I send you {adj} kisses; your eyes are shining; I write you {hue} verses; my heart is yours; you
    walk me home; I can't resist you; you taste like honey; we lie together; two hearts are beating; I love you; you
    kiss me; I want your {hue} love; I kiss you in the {place}
pop: the speakers play; the DJ plays my {thing}; the DJ plays a {hue} song; we dance with {hue} feet; the club feels
    {mood}; the beat keeps {move}; we hit replay; the bass drops low; the {adj} lights flicker; we spin in circles; my
    phone lights up; the chorus hits me; we know the words; the glitter's falling; we paint our nails; I text you
    back; we skip the line; you know my {adj} playlist; the lights are flashing; we jump and shout; my heart goes
    boom; it's Friday night; we wear our {adj} colors; I lose my cool; the crowd is jumping; we dance in the {place}
rap: I grind all day; I spit a {hue} verse; I rap for my {hue} crew; my crew stays {mood}; my flow is {mood}; I rap
    about the {place}; I made it from the {place}; I count my blessings; I write my {hue} lines; I pay my dues; I talk
    my talk; I run these {hue} streets; the bass is heavy; my people know me; the mic is open; I never slept; I came
    from nothing; I made a {hue} living; the block is watching; I keep it moving; I learned the hustle; I kept my
    word; I feed my family; the beat is knocking; they never helped me; I earned respect; I speak the truth; I stack
    my paper; I stay up working; mama told me; I hustle at the {place}; I rhyme about the {hue} {place}
rock: the amps are humming; the band is {mood}; the drums keep {move}; we scream in the {place}; I play a {hue} solo;
    I crank my {adj} amp; we shake the {place}; we rock the {place}; I grab my {thing}; we plug it in; the {adj}
    engine rumbles; the band plays loud; we turn it up; the drums are rolling; the strings are breaking; the crowd is
    roaring; the tires are screaming; I kick the gravel; the speakers crackle; I wear my {adj} boots; the stage is
    shaking; we break the silence; the lights explode; my knuckles bleed; feedback is howling; I shout the chorus; we
    burn the set list; the floor is sweating; we rock the {hue} {place}
rb: the lights are low; we slow dance {move}; sing me a {hue} slow jam; your touch feels {mood}; this groove is
    {mood}; slow dance in the {place}; the record spins; your {hue} voice is smooth; we take it slow; the bass line
    hums; the room gets warm; my body sways; you pull me closer; we close the {adj} curtains; the wine is poured; the
    groove is easy; you hum along; I close my eyes; your lips say more; we lose the hours; you call me sugar; it feels
    like heaven; I know your {hue} rhythm; we let it breathe; your skin is glowing; I wait in the {hue} {place}
"""

# The same about a theme, whose own words fill {the}, {theme}, {does}, {touch} and {image}.
THEME_HEADS = """
any: {the} {theme} {does}; {the} {theme} {does}; {the} {theme} {does}; {the} {theme} {does}; {the} {theme} {does};
    {the} {theme} {does}; {the} {theme} {does}; {the} {hue} {theme} {does}; {the} {hue} {theme} {does}; {the} {hue}
    {theme} {does}; I {touch} {the} {theme}; I {touch} {the} {theme}; I {touch} {the} {theme}; I {touch} {the}
    {theme}; we {touch} {the} {theme}; I {touch} {the} {hue} {theme}; we {touch} {the} {hue} {theme}; I {see} {the}
    {theme}; I {see} {the} {hue} {theme}; I {see} {the} {theme}, {image}; I {touch} {the} {theme}, {image}; my {body}
    {beats} and {the} {theme} {does}
"""

# Clauses of the chorus: shorter, and louder about the theme.
CHORUS_HEADS = """
any: oh, {the} {theme} {does}; {the} {theme} {does}; take me to {the} {theme}; sing about {the} {theme}; all I have is
    {the} {theme}; me and {the} {theme}; this is for {the} {theme}; give me {the} {theme}; {the} {theme} {does}; I
    {touch} {the} {theme}; {the} {hue} {theme} {does}; oh, I {touch} {the} {theme}; I still {see} {the} {theme}; I
    will never leave {the} {theme}; where is {the} {theme} now
happy: I love {the} {theme}; thank you for {the} {theme}; everybody, {the} {theme} {does}
sad: I cry for {the} {theme}; goodbye to {the} {theme}; I miss {the} {theme}
angry: I curse {the} {theme}; blame it on {the} {theme}; I am done with {the} {theme}
romantic: love is like {the} {theme}; kiss me when {the} {theme} {does}; you are like {the} {theme}
rap: yeah, {the} {theme} {does}; put your hands up for {the} {theme}; we rep {the} {theme}
rock: hey, {the} {theme} {does}; turn it up for {the} {theme}
rb: ooh, {the} {theme} {does}; baby, it's {the} {theme}
pop: oh oh, {the} {theme} {does}; na na, {the} {theme} {does}
"""

# The title, sung again and again, when the prompt calls its theme by an epithet and when it does not.
HOOKS = """
asked: {epithet} {theme}; {epithet} {theme}; my {epithet} {theme}; {epithet} {theme} of mine
free: {epithet} {theme}; my {epithet} {theme}; {theme} of {stuff}; {theme} of {stuff}
"""

# What is sung before the first verse and after the last chorus.
CHANTS = """
intro pop: oh, oh, oh, {hook}; na na na, {hook}; hey, hey, {hook}; oh, {hook}, oh
intro rap: yeah, uh, {hook}, yeah; uh, listen, {hook}; check it, one two, {hook}; look, {hook}, uh
intro rock: one, two, three, four, {hook}; hey, hey, hey, {hook}; whoa, {hook}, whoa; come on, come on, {hook}
intro rb: mm, baby, {hook}; ooh, ooh, {hook}; yeah, yeah, {hook}, baby; ooh, {hook}, mm
outro pop: oh, oh, {hook}, {hook}; {hook}, oh, {hook}; na na na, just {hook}
outro rap: yeah, {hook}, that's how it goes; {hook}, we out; uh, {hook}, one more time
outro rock: {hook}, {hook}, goodnight; whoa, {hook}, whoa; one last time, {hook}
outro rb: ooh, {hook}, {hook}; mm, {hook}, slow; yeah, {hook}, all night long
"""

PROMPTS = """
any: {a_emotion} {genre} song about {themes}; {a_emotion} {genre} song about {themes}; write {a_emotion} {genre} song
    about {themes}; write me {a_genre} song about {themes}, and make it {emotion}; I want {a_emotion} {genre} song
    about {themes}; sing {a_emotion} {genre} song about {themes}; can you write {a_emotion} {genre} song about
    {themes}?; {genre}, {emotion}, about {themes}; give me {a_emotion} {genre} song with {themes} in it; sing
    something {emotion} about {themes}, in {genre} style; let's hear {a_emotion} {genre} song about {themes};
    {a_genre} song about {themes} that sounds {emotion}; {a_emotion} song about {themes}, as {genre}
"""

# A theme: the noun | epithets | what it does | what I do with it | what is seen with it. "my" is said for "the", and
# a noun with "*" takes no "a".
THEMES = """
river | slow; winding; muddy | runs; is rising; carries me; keeps on rolling; finds its way
    | follow; swim across; drink from; sit beside | a paper boat; the muddy water; the smooth round stones
ocean | wide; deep; endless | roars; is waiting; pulls me down; never sleeps; washes over me
    | sail across; stare at; sing to; dive into | the salty spray; the white foam; the crying gulls
mountain | tall; distant; snowy | stands tall; won't move; touches heaven; looks down on us; hides its face
    | climb; look up at; shout to; camp beside | the narrow trail; a frozen peak; the falling rocks
forest | dark; green; quiet | is whispering; hides me; grows so thick; keeps its secrets; breathes at night
    | run through; hide in; wander; get lost in | the tall green trees; a trail of moss; an owl
desert | dry; burning; endless | is burning; stretches out; swallows me; keeps no water; glows at noon
    | cross; walk; survive; wander through | the thirsty sand; an empty canteen; a lizard
island | lost; tiny; sunny | is waiting; drifts away; calls us back; has no roads; sleeps in the sea
    | swim to; sail to; dream of; live on | the palm trees; a bamboo raft; white sand
garden | hidden; wild; green | is blooming; grows for you; needs rain; smells so sweet; wakes in spring
    | water; walk through; plant; sleep in | the tangled vines; a wooden fence; the bumblebees
meadow | open; green; quiet | is waving; sings with bees; lies open; turns to gold; smells like hay
    | run through; lie down in; cross; picnic in | the tall grass; wild daisies; a white lamb
valley | deep; lonely; green | echoes; fills with fog; keeps us safe; lies below; holds the light
    | walk through; shout across; come home to; settle in | the morning mist; a farmhouse; a cowbell
harbor | safe; foggy; old | is sleeping; waits for ships; takes us home; smells of salt; shines at night
    | sail into; walk along; leave; return to | the tall masts; a rusty chain; the fishing nets
storm | wild; coming; perfect | is coming; breaks the sky; rattles the glass; won't let up; blows me down
    | chase; run from; wait out; stand up to | the flooded streets; a broken branch; dark clouds
thunder* | rolling; distant; heavy | is rolling; shakes the house; answers me; growls all night; wakes the dogs
    | hear; hide from; sing with; count | the heavy clouds; a sudden flash; rattling glass
lightning* | sudden; white; blue | strikes twice; lights the sky; splits the tree; finds me here; writes its name
    | watch; catch; chase; run from | a burning tree; the black clouds; a hot white spark
rainbow | double; faint; lost | bends over us; comes at last; fades too fast; paints the sky; leads to gold
    | follow; point at; paint; slide down | the wet grass; all the colors; a pot of coins
sunrise | pink; early; golden | wakes the town; takes its time; warms my face; paints the roofs; starts it all
    | wait for; watch; run toward; drink in | the first birds; long shadows; a pink cloud
sunset | red; last; golden | burns so red; ends the day; melts away; takes the light; paints your face
    | watch; chase; ride into; toast | the long pier; an orange sky; two beach chairs
rain* | pouring; April; cold | keeps falling; taps the glass; washes me; won't stop now; sings on the roof
    | run through; dance in; listen to; wait out | a broken umbrella; the gray puddles; wet shoes
snow* | white; silent; falling | keeps falling; hides the road; melts away; covers us; glows at night
    | shovel; walk through; kiss in; wait for | a woolen scarf; the frozen pond; two sets of tracks
wind* | cold; northern; wild | is howling; lifts my coat; knows my name; blows the door; steals my hat
    | lean into; listen to; fight; follow | the flying leaves; a broken gate; a paper kite
moon | full; silver; crescent | is rising; follows me; pulls the tide; hangs so low; keeps my secret
    | howl at; sing to; reach for; wish on | the dark roofs; a silver cloud; the midnight tide
stars* | falling; silver; distant | are falling; light my way; know our names; blink at me; come out late
    | count; wish on; reach for; sleep under | a black sky; the Milky Way; a telescope
sun | rising; burning; evening | comes up; burns my skin; warms my bones; hides away; shines on us
    | chase; wake with; worship; run to | a straw hat; the blue pool; melted ice
fire | burning; wild; old | is burning; keeps me warm; eats the wood; won't go out; crackles low
    | light; feed; dance around; walk through | the red coals; a box of matches; thick black smoke
smoke* | thick; blue; rising | is rising; stings my eyes; fills the room; curls away; hides your face
    | breathe; follow; walk through; wave at | a glowing coal; the blackened wall; a long gray trail
ashes* | cold; gray; scattered | are cold; blow away; fall like snow; stain my hands; tell the truth
    | sweep; scatter; rise from; walk through | the burned-down house; a blackened beam; cold gray dust
shadow | long; dark; strange | follows me; grows so long; knows my step; waits outside; fades at noon
    | chase; run from; hide in; dance with | a dim street lamp; the crooked wall; a dark stair
summer | long; hot; endless | goes too fast; burns so bright; kisses me; never ends; fades to gold
    | live for; miss; chase; remember | bare feet; melting popsicles; a swimming pool
winter | long; cold; hard | comes too soon; bites my skin; never ends; turns us white; locks the lake
    | fear; survive; sleep through; wait out | the frozen pipes; a woolen coat; bare black trees
autumn | golden; late; windy | is falling; turns to rust; smells of smoke; strips the trees; comes again
    | walk through; paint; love; remember | the orange leaves; a pumpkin patch; cold rainy air
rose | red; wild; thorny | opens up; pricks my hand; climbs the wall; fades so fast; smells of June
    | pick; give you; smell; press | the sharp thorns; a velvet petal; a tall thin vase
flower | wild; yellow; dried | opens up; turns to light; needs the rain; bends its head; grows through stone
    | pick; water; wear; give you | a honeybee; the soft petals; an old clay pot
willow | old; weeping; bending | is weeping; bends so low; shades the pond; hears it all; trails its leaves
    | sit beneath; carve; climb; cry with | the still pond; long green leaves; our carved names
waterfall | hidden; roaring; tall | keeps roaring; falls for miles; cools my face; never tires; hides a cave
    | stand beneath; hear; jump from; swim to | the slick rocks; a rising mist; a deep blue pool
butterfly | blue; paper; lost | flutters by; finds my hand; learns to fly; leaves its shell; loves the light
    | chase; follow; draw; set free | a tiny wing; the yellow blooms; a summer net
sparrow | small; brown; lonely | sings for crumbs; builds a nest; hits the glass; flies back home; chirps at dawn
    | feed; hear; hold; set free | a broken twig; the window ledge; a crust of bread
raven | black; wise; hungry | is watching; steals my ring; croaks at me; knows too much; flies at night
    | feed; fear; follow; curse | a black feather; the bare oak; an iron fence
wolf | gray; lonely; hungry | is howling; tracks me down; runs alone; shows its teeth; guards the hill
    | run with; howl with; fear; feed | two yellow eyes; the deep snow; a torn-up trail
horse | wild; white; tired | gallops on; knows the way; breaks the fence; carries me; won't be tamed
    | ride; feed; brush; chase | a leather saddle; the open plains; muddy hooves
lion | proud; golden; sleeping | is roaring; guards the gate; shakes its mane; hunts at night; bows to none
    | face; feed; tame; roar with | a golden mane; the tall dry grass; sharp white teeth
eagle | proud; lonely; bald | soars so high; spreads its wings; sees it all; rides the air; never falls
    | watch; follow; envy; fly with | the sharp cliffs; a wide blue sky; a high nest
letter | lost; old; unread | is waiting; never came; smells like you; says goodbye; tells the truth
    | write; fold; send you; read | a crooked stamp; the faded ink; your handwriting
mirror | broken; dusty; cracked | is watching; shows my face; never lies; turns away; cracks in two
    | stare at; talk to; break; turn from | my tired eyes; a silver frame; seven bad years
candle | burning; white; melting | is burning; flickers low; drips on wood; lights your face; won't last long
    | light; hold; blow out; watch | the melted wax; a tiny flame; a crystal dish
guitar | old; broken; electric | is crying; hums for you; needs new strings; leans on me; plays our song
    | play; tune; carry; smash | a worn-out strap; three loud chords; a bent string
piano | old; dusty; grand | is playing; sounds so sad; waits for hands; fills the hall; needs a song
    | play; tune; lean on; hear | the yellow keys; a slow waltz; the sheet music
radio | old; crackling; broken | is playing; plays our song; hums all night; fades to noise; cries out loud
    | turn up; turn off; hear; sing with | a bent antenna; the top ten; a late-night host
photograph | faded; torn; old | is fading; shows us young; fell behind; keeps you here; hangs alone
    | frame; tear; keep; stare at | your crooked smile; a shoebox; the silver frame
diary | pink; locked; old | knows it all; holds my fears; tells the truth; fills with ink; keeps you near
    | write; lock; burn; read | a tiny padlock; the torn-out page; blue ink
necklace | silver; golden; broken | shines for you; holds your name; breaks in two; feels so cold; hangs so low
    | wear; buy you; lose; clasp | a silver chain; the velvet case; your soft throat
crown | golden; heavy; paper | is heavy; slips away; shines too bright; fits me well; falls at last
    | wear; steal; drop; polish | a purple robe; the empty throne room; bright jewels
key | rusty; golden; lost | turns the lock; won't fit now; hangs alone; takes me home; knows the door
    | turn; lose; hide; throw out | a heavy door; the old lock; a metal ring
map | torn; old; hidden | shows the way; fell apart; leads to you; tells a lie; folds too small
    | read; fold; draw; follow | a red pen mark; the wrong turn; a strange coast
compass | broken; old; silver | points to you; spins around; lost its north; leads me home; never lies
    | trust; hold; follow; drop | the far north; a spinning needle; a sailor's hand
lantern | old; paper; swinging | lights the path; flickers low; swings at night; burns for you; guides us home
    | light; swing; follow; hang | a moth or two; the dark path; an iron hook
lighthouse | old; lonely; white | turns its light; guides me home; stands alone; warns the ships; never sleeps
    | steer for; climb; see; keep | the black rocks; a spinning beam; the stormy coast
bottle | empty; green; broken | rolls away; holds a note; runs dry now; breaks in two; floats to you
    | open; throw; fill; drain | a soft cork; the last drop; broken green glass
coffee* | black; cold; morning | wakes me up; goes cold now; burns my tongue; smells like home; tastes of dawn
    | drink; pour you; spill; brew | a chipped mug; the sugar spoon; last night's news
suitcase | old; packed; heavy | is packed now; won't shut right; holds my life; waits for me; spills its clothes
    | pack; drag; open; leave | a plane ticket; the worn-out wheels; a folded shirt
ticket | one-way; torn; golden | takes me home; costs too much; says tonight; won't bring you back; blows away
    | buy; tear; hold; lose | the long queue; a stamped hand; a row of seats
train | midnight; last; slow | is leaving; pulls away; runs all night; whistles low; takes you home
    | catch; miss; board; wait for | the steel rails; a window seat; a lonely whistle
airplane | paper; silver; late | takes off late; lifts me up; circles home; roars above; takes you away
    | board; catch; fly; wave at | a row of clouds; the window seat; a blinking wing
ship | old; sinking; tall | is sinking; sails at dawn; rides the waves; leaves the shore; comes back home
    | steer; board; build; wait for | the torn white sails; a rusty anchor; the captain's log
bicycle | old; red; broken | rolls downhill; squeaks and shakes; leans on walls; takes me there; lost a wheel
    | ride; fix; steal; push | a muddy path; the silver bell; two flat tires
motorcycle | black; fast; old | roars to life; eats the road; shakes the street; leans through curves; burns for gas
    | ride; start; crash; fix | a black helmet; the hot chrome pipes; a trail of dust
highway | long; open; empty | never ends; calls my name; hums all night; takes me home; splits the dark
    | drive; follow; leave; ride | the white lines; a gas station sign; big rigs
bridge | old; burning; wooden | is falling; holds us up; sways at night; leads to you; spans the gap
    | cross; burn; build; walk | the dark current; a rusty rail; a lovers' lock
road | long; dusty; open | goes on; bends again; calls to me; leads me home; forks in two
    | walk; follow; travel; take | the yellow lines; a faded sign; two worn-out shoes
station | empty; crowded; last | is empty; smells of steam; fills with ghosts; shuts at ten; hears goodbyes
    | wait at; leave; pace; meet you at | a slow clock; the wooden bench; a lost glove
window | open; broken; frozen | is open; shows the street; fogs with breath; lets in rain; stays lit up
    | open; break; look out; wash | a thin white curtain; the flower box; the people below
door | open; locked; red | is open; slams so hard; won't shut right; creaks at night; leads to you
    | open; knock on; lock; walk through | a brass knob; the welcome mat; a ray of light
kitchen | warm; messy; little | is humming; smells of bread; feels like home; fills with steam; hears us laugh
    | sweep; dance in; paint; cook in | a boiling pot; the dirty plates; a yellow stool
church | old; empty; white | is ringing; stands so still; hears my prayers; fills with song; lights the hill
    | pray in; enter; pass; build | the stained glass; a wooden pew; a choir robe
carnival | wild; empty; midnight | comes to town; spins all night; folds its tents; smells of sugar; steals my breath
    | run through; join; leave; dream of | the Ferris wheel; cotton candy; a striped tent
circus | small; traveling; wild | comes to town; packs its tents; makes me laugh; lost its lions; never sleeps
    | join; watch; run off with; leave | a tightrope; the painted clowns; a dancing bear
movie | old; silent; late | ends too soon; makes me cry; starts at nine; plays your face; fades to black
    | watch; star in; pause; quote | buttered popcorn; the big screen; our two seats
diner | lonely; all-night; little | never shuts; smells like grease; glows at night; knows my name; pours it black
    | sit in; meet you at; own; drive past | a slice of pie; the red booth; a tired waitress
village | sleepy; tiny; old | is sleeping; rings its bell; knows my folks; waits for spring; lies below
    | leave; miss; walk through; return to | the stone well; a baker's shop; smoking chimneys
rooftop | quiet; high; windy | sees the stars; holds us up; shakes with bass; catches rain; knows our plans
    | dance on; climb to; sleep on; sing on | the water tank; a pigeon; the skyline
subway | crowded; late; rattling | rattles on; shakes my bones; runs all night; smells of rust; takes us home
    | ride; wait for; sing in; sleep on | the third rail; a paper cup; tired faces
taxi | yellow; late; empty | pulls away; takes you home; won't stop now; runs a light; waits outside
    | call; hail; share; chase | a cracked back window; the meter; a five-dollar bill
money* | easy; dirty; borrowed | comes and goes; buys no love; burns my hand; talks too loud; runs away
    | spend; count; earn; owe you | a gold chain; the unpaid rent; a stack of bills
diamond | rough; blue; stolen | cuts through glass; shines for you; costs too much; never breaks; blinds us all
    | buy you; steal; wear; polish | a velvet box; the jeweler's case; cold hard light
microphone | cheap; golden; broken | picks me up; hears my truth; screams at me; cuts out now; knows my voice
    | grab; drop; hold; rock | a tangled cord; the front row; a red light
party | wild; late; surprise | starts at ten; never stops; spills outside; needs you here; wakes the street
    | crash; throw; leave; dance through | the loud music; paper hats; a bowl of punch
birthday | lonely; tenth; late | comes again; makes me old; needs a cake; ends too soon; slips my mind
    | forget; share; plan; wish on | pink frosting; the wrapped gifts; a bunch of balloons
wedding | white; quiet; royal | starts at noon; makes me cry; fills the church; lasts all night; sets us free
    | plan; crash; dream of; dance at | a long white veil; the happy guests; a bowl of rice
promise | broken; old; empty | falls apart; holds us still; meant the world; keeps me here; fades with time
    | keep; break; make you; believe | your crossed fingers; the same old words; a shaken hand
secret | dark; old; little | slips out now; burns my tongue; stays with me; hurts us both; grows with time
    | keep; tell you; hide; share | a quiet voice; the closed door; your wide eyes
memory | old; sweet; fading | comes to me; fades so slow; hurts at night; lives in songs; won't let go
    | hold; keep; chase; bury | your old perfume; the home movies; a song we knew
childhood | lost; golden; wild | goes too fast; calls me back; lives in me; smells of grass; plays outside
    | miss; outgrow; remember; dream of | a tire swing; the tree house; scraped knees
my mother | young; tired; loving | sings to me; works all night; taught me well; dries my eyes; prays for us
    | call; thank; hug; write to | a warm kitchen; her soft hands; Sunday dinner
my father | old; silent; proud | works all night; taught me well; never cried; drives so far; comes back home
    | call; forgive; thank; look like | his worn boots; a tool box; the old truck
my brother | little; big; lost | has my back; rides with me; left too young; shares my name; laughs with me
    | call; fight; miss; stand by | a wrestling match; the bunk beds; one shared room
my sister | little; big; wild | laughs with me; braids my hair; knows it all; shares my room; took my side
    | call; trust; miss; dance with | the matching shirts; a phone call; her loud laugh
stranger | tall; kind; dark | passes by; looks like you; tips his hat; knows my name; buys a drink
    | meet; follow; trust; dance with | an unknown face; the last bar stool; a half-smile
soldier | young; tired; brave | marches on; comes back home; writes at night; lays it down; won't fight now
    | wait for; hug; bury; write to | a folded flag; the muddy boots; a silver medal
sailor | young; sleepy; lonely | sails at dawn; sings off-key; comes back home; knows the knots; loves the deep
    | wait for; kiss; follow; wave at | a blue tattoo; the salty dock; a striped shirt
queen | young; lonely; dancing | rules the night; takes her throne; waves at us; bows to none; lost her head
    | serve; crown; follow; dance with | her red robes; a marble hall; the royal guards
ghost | lonely; pale; friendly | walks the hall; knows my name; fades at dawn; wears your face; won't leave now
    | fear; chase; talk to; sleep beside | a cold draft; the creaking floor; rattling chains
angel | fallen; lost; guardian | falls for me; spreads her wings; guards my bed; sings at dawn; lost her way
    | call; kiss; trust; pray to | a bright halo; soft white wings; a harp
clown | weary; painted; laughing | is laughing; cries at night; wipes his face; trips again; hides his pain
    | play; hire; hug; fear | a red nose; the floppy shoes; smeared make-up
robot | lonely; broken; dancing | starts to feel; needs a heart; hums all night; learns to dance; breaks again
    | build; fix; love; teach | a blinking light; the loose wires; a metal hand
rocket | silver; lost; burning | lifts off now; shakes the ground; leaves the earth; heads for Mars; falls to sea
    | build; ride; launch; watch | the countdown; a trail of flame; the launch pad
planet | lonely; blue; lost | spins so slow; needs a friend; warms too fast; turns for us; feels so small
    | save; circle; leave; explore | the silver rings; a cold red moon; empty space
clock | broken; old; ticking | is ticking; moves too slow; strikes at twelve; stops at three; counts me down
    | wind; stop; watch; smash | two thin hands; the long hours; a wooden case
calendar | old; paper; empty | turns too fast; marks the day; has no dates; counts us down; knows your day
    | mark; flip; burn; count | a red circle; the torn-off month; passing weeks
newspaper | old; yellow; soggy | tells the news; got it wrong; blows away; wraps the fish; prints your name
    | read; fold; burn; deliver | the front page; a bold headline; black ink
poem | short; unsaid; silly | starts with you; never rhymes; falls apart; lives in me; ends too soon
    | write you; read; burn; whisper | a blunt pencil; the last verse; crumpled paper
painting | faded; stolen; strange | hangs alone; shows your face; moves me still; needs more blue; comes to life
    | hang; steal; frame; stare at | a wet brush; the museum wall; a splash of red
statue | broken; marble; silent | stands alone; never speaks; lost its arms; turns its head; guards the square
    | kiss; carve; break; talk to | the pigeons; cold white stone; a chipped nose
hammer | heavy; rusty; old | hits the nail; swings again; breaks the wall; rings like steel; falls so hard
    | swing; drop; lift; grab | a bent nail; the sore thumb; flying sparks
sword | shining; broken; rusty | cuts so deep; shines like ice; falls from me; breaks in two; sleeps in stone
    | raise; drop; swing; break | a dented shield; the tired knights; a torn banner
arrow | golden; broken; flying | hits the mark; finds my heart; points the way; flies so straight; missed again
    | shoot; dodge; break; follow | a tight bow; the far target; a red feather
anchor | rusty; heavy; old | holds me down; drags below; keeps us still; won't let go; hits the sand
    | drop; raise; lift; trust | the salty rope; a sunken wreck; thick green weeds
feather | white; lost; falling | drifts away; lands on me; floats so light; falls from you; rides the air
    | catch; blow; keep; follow | a soft gray dove; the light breeze; a pillow fight
tattoo | fading; hidden; fresh | fades to blue; spells your name; hurts so good; stays with me; tells the truth
    | show you; hide; regret; trace | a sharp needle; the black ink; my left arm
perfume* | sweet; cheap; French | fills the room; smells like you; stays behind; haunts my coat; drives me wild
    | wear; smell; buy you; spill | a glass bottle; your bare neck; the silk scarf
jacket | leather; torn; denim | smells like smoke; keeps me warm; still fits you; hangs alone; lost a sleeve
    | wear; lend you; steal; zip | a broken zipper; the worn-out sleeves; two deep pockets
sneakers* | dirty; white; brand new | hit the street; squeak and shine; take me far; hang on wires; fell apart
    | lace; wear; scuff; tie | two long laces; the rubber soles; gum on the ground
umbrella | red; broken; black | blows away; shelters us; lost a spoke; drips on floors; opens up
    | share; lose; open; hold | the gray puddles; a rainy street; wet hair
blanket | warm; old; woolen | keeps us warm; smells like you; wraps me up; falls from bed; hides our feet
    | share; steal; fold; knit | a cold draft; the soft couch; two cold feet
chocolate* | dark; melted; sweet | melts for you; tastes like love; stains my shirt; fixes me; cheers me up
    | share; steal; taste; buy you | a gold wrapper; the sweet tooth; sticky hands
lemon | bitter; yellow; sour | tastes like you; stings my tongue; turns to gold; falls from trees; wakes me up
    | squeeze; slice; bite; pick | a tall glass; the sugar bowl; ice cubes
orange | ripe; sweet; bitter | rolls away; tastes like sun; drips on me; falls from trees; smells of Spain
    | peel; share; slice; pick | the sticky juice; a fruit stand; curled-up peel
whiskey* | cheap; old; sweet | burns my throat; knows my name; pours too fast; numbs the pain; runs out now
    | drink; pour; spill; quit | a shot glass; the closing hour; a bar tab
prison | cold; lonely; crowded | holds me down; locks at ten; rings with steel; breaks us down; keeps its dead
    | leave; escape; paint; serve | the iron bars; a narrow bunk; guards at the gate
school | old; empty; strict | lets us out; rings its bell; taught me wrong; smells of chalk; shuts its doors
    | skip; leave; hate; finish | a row of desks; the chalkboard; torn-up notes
my neighbor | noisy; kindly; new | knocks too loud; knows it all; waves at us; moves away; plays his drums
    | greet; help; wake; avoid | a white picket fence; the mailbox; a barking dog
"""

# Words whose syllables a rule of spelling gets wrong, by their number of syllables.
SYLLABLES = """
1: breathes; clothes; mm; tongue
2: basement; beyond; candles; chocolate; choir; circles; crackles; create; crooked; crumpled; crying; dying; eagles;
    evening; flying; going; goodbyes; homeward; knuckles; liar; lion; lions; neon; notebook; notepad; paying; playing;
    poem; puddles; quiet; ragged; rattles; rhythm; royal; ruined; ruins; rumbles; seeing; sidewalk; somehow;
    something; sometimes; somewhere; sparkles; swaying; tables; tangled; tire; tired; tires; troubled; troubles;
    wasteland; whistles; wicked
3: desire; enjoying; everything; everywhere; furious; guardian; museum; piano; popsicles; radio; stadium; studio;
    violin
4: amplifier; everybody
"""
