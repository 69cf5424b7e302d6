// Package scan tells what is inside an image's layers and what is known to be bad about it.
//
// [Layers] reads a layer once, while it streams by, and makes its inventory: the packages each file tells of, what the layer
// removes from those below, and what could not be read. Everything in a layer was chosen by whoever built it, so it is taken
// apart in a process of its own that can open no file, reach no network and start no program, has bounded memory and time, and
// reads one layer only. What that process cannot read is a gap, and so is its death: there is no way from a layer's content to an
// inventory that is empty for want of having looked.
//
// [Advisories] matches packages against advisory data. The package must not know policies or verdicts: it states facts.
package scan
