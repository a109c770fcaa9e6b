"""What a page says of its pictures and texts."""


EMBEDDED_POINTS = 1000  # t-SNE of more takes minutes
DIMENSIONS = 20  # whose loss is measured: each takes a pass of the decoder
BY_USE = "Rows by decreasing rate, or, where that is not known of each dimension, by the variance of the posterior mean."
# file -> (title, alternative text, caption)
MODEL_PICTURES = {
    "reconstructions.png": (
        "Reconstructions",
        "Sixteen test images, and below each what the model makes of it",
        "From top to bottom: the first 16 test images, the mean of p(x|z), and a sample of it, with one draw of z from q(z|x). "
        "A decoder that ignores z shows the same mean in every column.",
    ),
    "samples.png": (
        "Samples from the model",
        "A grid of images from the model: means of p(x|z) above, draws of x below",
        "z from the prior, always with the same random numbers. The upper half shows the means of p(x|z), the lower half one "
        "draw of x for each of the same z. Each pixel of a draw is drawn by itself.",
    ),
    "traversals.png": (
        "Latent traversals",
        "Rows of images; along each row one latent dimension changes",
        "The posterior mean of the first test image, with one dimension at a time moved through the prior. "
        f"{BY_USE} A row that does not change is a dimension that the decoder ignores. Shown are means of p(x|z).",
    ),
    "layers.png": (
        "What z moves in the decoder",
        "Bars over the layers of the decoder: the part of each that comes of z, and in how many directions z moves it",
        "Each layer, from the bottom to the output. Above: of the mean square of its activations, the part that changes when z "
        "comes from another datapoint, the part that comes of the elements of x that the decoder has read before, if it reads "
        "any, and the part that is always the same. Below: in how many directions, about, z moves the layer. A layer with few "
        "directions passes little of z on; skips bring z to each layer anew.",
    ),
    "dimensions.png": (
        "Which dimensions matter to the decoder",
        "What the decoder loses for each dimension of z, with 95 % intervals",
        f"What log p(x|z) loses when this one dimension comes from another datapoint; of the {DIMENSIONS} most used at most. "
        "At 0 the decoder does without it, whatever its rate.",
    ),
    "tsne.png": (
        "Posterior means, t-SNE",
        "Posterior means of test items in the plane by t-SNE, coloured by class",
        f"The first {EMBEDDED_POINTS:,} test items at most. Distances between clusters and their sizes mean nothing here; "
        "the neighbour accuracy is measured in the latent space itself.",
    ),
    "pca.png": (
        "Posterior means, PCA",
        "Posterior means of test items on their first two principal components, coloured by class",
        "The same points on the two directions in which the posterior means vary most.",
    ),
}
DRAWN_ONLY = {  # the same of an autoregressive decoder, whose p(x|z) has no mean in closed form: (alternative text, caption)
    "reconstructions.png": (
        "Sixteen test images, and below each a sample of what the model makes of it",
        "From top to bottom: the first 16 test images, and a sample of p(x|z), with one draw of z from q(z|x). A decoder that "
        "ignores z shows unrelated samples.",
    ),
    "samples.png": (
        "A grid of images drawn from the model",
        "Draws: z from the prior, x from the decoder pixel by pixel, always with the same random numbers.",
    ),
    "traversals.png": (
        "Rows of images; along each row one latent dimension changes",
        "The posterior mean of the first test image, with one dimension at a time moved through the prior. "
        f"{BY_USE} A row that does not change is a dimension that the decoder ignores. Shown are samples of p(x|z), with the "
        "same noise all along a row.",
    ),
}
UNDECIDED = "In a mean, grey means undecided."
ON_A_SPHERE = "z is then scaled to length 1, so that the other dimensions change too."
GREYS = "The values are real numbers or counts: black and white are their 1st and 99th percentile."
# file -> (title, headings of the columns, caption)
MODEL_TEXTS = {
    "reconstructions.txt": (
        "Reconstructions",
        ("text", "what the model makes of it"),
        "The first 8 test texts, and the greedy decoding of the mean of q(z|x). A decoder that ignores z says the same "
        "each time.",
    ),
    "interpolation.txt": (
        "From one text to another",
        ("weight", "text"),
        "Greedy decodings along the straight line, on a sphere the arc, between the posterior means of the first two test "
        "texts. Where all are the same, the decoder does not listen to z.",
    ),
    "samples.txt": (
        "Samples from the model",
        ("text",),
        "z from the prior, x from the decoder word by word, always with the same random numbers.",
    ),
}
ORDER = (
    *("reconstructions.png", "samples.png", "traversals.png", "rates", "collapse", "units", "dimensions.png", "layers.png"),
    *("tsne.png", "pca.png", "training", "bound"),
)
BESIDE = ("Rate of each dimension", "Reconstructions", "Samples from the model", "Posterior means, t-SNE")
MEANING = {  # kind of verdict -> what it means
    "collapsed": "z says next to nothing of x: q(z|x) is nearly the same for every x.",
    "collapsed on the decoder's side": "The encoder puts information about x into z, and the decoder does not use it.",
    "weakly used": "The decoder uses z, but z says little: its nats tell at most ten groups of x apart, and are less than a "
    "tenth of what there is to say of x. The rest is modelled without z.",
    "not collapsed": "z says something of x, and the decoder depends on it.",
    "no latent variables": "There is nothing to collapse.",
    "undecided": "The intervals are too wide to tell whether the decoder uses z. More test points narrow them.",
    "not measured": "There is no report in this run folder yet.",
}
MISFIT = "The decoder does better with the z of other points. More test points do not change that."
NO_LOSS = "What the decoder loses when z is shuffled is not known: the evaluation card below says why."
UNBOUNDED = "The decoder does not use z. What the encoder puts into z has no bound here that would be small."
IDLE = (
    "Units that are not active have posterior means that hardly vary. That alone is no defect: the data may not need them, or "
    "the training may not have found a use for them."
)
COLOURS = {  # kind of verdict -> class of its box on a page; others are grey
    "collapsed": "collapsed",
    "collapsed on the decoder's side": "collapsed",
    "weakly used": "partly",
    "not collapsed": "not-collapsed",
}
SCALINGS = {
    "none": "",
    "standard": "Inside the model values are standardised; ",
    "log": "Inside the encoder log(1 + x) is standardised; ",
}


def about_picture(name, config, kind):
    """(title, alternative text, caption) of a picture of a model: what is in it for this decoder and kind of values."""
    title, alt, caption = MODEL_PICTURES[name]
    if config.decoder == "pixelcnn" and name in DRAWN_ONLY:
        alt, caption = DRAWN_ONLY[name]
    more = [GREYS] * (kind in ("real", "count") and name in DRAWN_ONLY)
    more += [UNDECIDED] * (kind == "binary" and name == "samples.png" and config.decoder != "pixelcnn")
    more += [ON_A_SPHERE] * (config.prior == "uniform-sphere" and name == "traversals.png")
    return title, alt, " ".join([without_z(caption, config), *more])


def without_z(caption, config):
    """The caption of draws, without the draw of z where the model has none."""
    return caption if config.latent_dim else caption.replace("z from the prior, x from", "x from")


def values_read(config, data):
    """How the values of the data are read, what the model makes of them, and the likelihood that follows."""
    scaling = SCALINGS[config.scaling or "none"]
    return f"{data.how_read} {scaling}{'the' if scaling else 'The'} likelihood is {config.likelihood}."
