// Puts the page together: one feed, and the parts that show it.

import { Chain } from "./chain.js";
import { Curves } from "./curves.js";
import { Events } from "./events.js";
import { Feed } from "./feed.js";
import { Lanes } from "./lanes.js";
import { Source } from "./source.js";
import { Strip } from "./strip.js";
import { tokenForm } from "./token.js";

const feed = new Feed(new Source());
tokenForm(feed);
for (const Part of [Strip, Curves, Lanes, Chain, Events]) new Part(feed);
feed.run();
