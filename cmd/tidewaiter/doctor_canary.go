package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/upstream"
)

// Limits of pulling a canary.
const (
	// canaryTimeout is for all of it. It may have to be fetched and examined first, and no client waits longer for an image.
	canaryTimeout = 5 * time.Minute
	// originTimeout is how long the origin may take to tell what the canary consists of. To most nodes it should not answer at all.
	originTimeout = 15 * time.Second
	// maxCanaryManifests and maxCanaryBlobs bound what is asked for: an image of a dozen platforms, several times over.
	maxCanaryManifests, maxCanaryBlobs = 64, 512
)

// defaultRegistry is where clients reach a proxy without a configuration.
const defaultRegistry = "http://127.0.0.1:5000"

// canaryFlags say what is pulled, and from whom.
type canaryFlags struct{ reference, server, caFile string }

func (f *canaryFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.reference, "canary", "", "image that must be denied, with its registry's host, to be pulled through the proxy")
	cmd.Flags().StringVar(&f.server, "server", defaultRegistry, "where clients reach the proxy; credentials as in https://NAME:PASSWORD@host")
	cmd.Flags().StringVar(&f.caFile, "ca-file", "", "PEM certificates trusted for the proxy beside those of the system")
}

// canary is an image that must be denied, and the proxy that must deny it.
type canary struct {
	ref  oci.Reference
	node *node
	// origin tells what the canary consists of.
	origin *upstream.Registries
	// configured says that the configuration of the proxy is here, and so perhaps the proxy. Elsewhere the origin should be out of reach.
	configured bool
}

// canary returns the canary of flags. A nil d stands for a machine that knows nothing but them.
func (d *doctor) canary(flags canaryFlags) (*canary, error) {
	ref, err := oci.ParseReference(flags.reference, anyUpstream, nil)
	if err != nil {
		return nil, usageError(err)
	}
	if host, _ := oci.SplitUpstream(flags.reference); host == "" {
		return nil, usageError(errors.New("the canary needs the host of its registry in front"))
	}
	c := &canary{ref: ref, configured: d != nil}
	if c.node, err = newNode(flags.server, flags.caFile); err != nil {
		return nil, usageError(err)
	}
	if d != nil {
		if c.origin, err = d.openUpstreams(); err == nil {
			return c, nil
		} // what is wrong with the configuration is for another check
	}
	// Nothing is shown to it, and nothing but digests taken from it, so it may be wherever nodes find it.
	c.origin, err = upstream.New([]upstream.Config{{Host: ref.Repository.Upstream, UnsafePrivateAddresses: true}}, upstream.Options{UserAgent: "tidewaiter/" + version})
	if err != nil {
		return nil, usageError(err)
	}
	return c, nil
}

// check pulls the canary in every way nodes do.
func (c *canary) check(ctx context.Context) []diagnosis {
	defer c.origin.Close()
	known := &parts{}
	if c.ref.Digest != "" {
		known.manifests = append(known.manifests, c.ref.Digest)
	}
	found := []diagnosis{c.learn(ctx, known)}
	repo := c.ref.Repository
	for _, w := range []way{
		{"canary by path", "/v2/" + repo.Escaped() + "/", "", false},
		{"canary by ns=", "/v2/" + repo.Path + "/", "ns=" + url.QueryEscape(repo.Upstream), true},
	} {
		a := &attempt{node: c.node, way: w}
		a.pull(ctx, c.ref, known)
		d := a.diagnose()
		d.Check = w.name
		found = append(found, d)
	}
	return found
}

// learn asks the origin what the canary consists of. That it does not tell is no failure: nodes should not reach it.
func (c *canary) learn(ctx context.Context, known *parts) diagnosis {
	ctx, cancel := context.WithTimeout(ctx, originTimeout)
	defer cancel()
	read := func(reference string) error {
		content, err := c.origin.Manifest(ctx, c.ref.Repository, reference)
		if err == nil {
			known.add(content)
		}
		return err
	}
	reference := c.ref.Tag
	if c.ref.Digest != "" {
		reference = c.ref.Digest.String()
	}
	err := read(reference)
	for i := 1; i < len(known.manifests) && err == nil; i++ { // the first is what has been read
		err = read(known.manifests[i].String())
	}
	host := c.ref.Repository.Upstream
	var d diagnosis
	switch reached := len(known.blobs) > 0; {
	case c.configured && err == nil:
		d = well("%s has it: %d manifests and %d blobs to ask for", host, len(known.manifests), len(known.blobs))
	case c.configured:
		d = doubt("see to the upstream", "not all of it is known, so not all of it is asked for: %s", inOneLine(err))
	case err == nil, reached:
		d = doubt("keep nodes from registries by network: no client can be told not to ask them", "%s answers from here, so that it can be pulled past the proxy", host)
	default:
		d = well("%s does not answer from here; what it consists of is asked for as far as the proxy tells", host)
	}
	d.Check = "canary's origin"
	return d
}

// parts are the digests of what the canary consists of, as far as anybody has told, each once.
type parts struct{ manifests, blobs []oci.Digest }

// add notes a manifest and all it names. What cannot be read names nothing.
func (p *parts) add(content oci.Content) {
	p.addManifest(content.Digest)
	m, err := oci.ParseManifest(content.MediaType, content.Raw)
	if err != nil {
		return
	}
	for _, child := range m.Manifests {
		p.addManifest(child.Digest)
	}
	for _, blob := range m.Blobs() {
		if len(p.blobs) < maxCanaryBlobs && !slices.Contains(p.blobs, blob.Digest) {
			p.blobs = append(p.blobs, blob.Digest)
		}
	}
}

func (p *parts) addManifest(d oci.Digest) {
	if d != "" && len(p.manifests) < maxCanaryManifests && !slices.Contains(p.manifests, d) {
		p.manifests = append(p.manifests, d)
	}
}

// way is one of the ways nodes ask for images: where the repository is at the proxy, and whether that is as the mirror of its registry.
type way struct {
	name, base, query string
	mirror            bool
}

// attempt is to pull the canary in one way, and what came of it.
type attempt struct {
	node *node
	way  way
	// asked counts the requests; served are those that were answered with content, or sent elsewhere for it, and untold those that were
	// neither served nor refused.
	asked          int
	served, untold []string
	// indexes are the manifests that were served and hold no image, only the names of some.
	indexes []string
	// open says how a mirror's client would be led to ask the origin; empty when it would not.
	open string
	// refusal is the first of a manifest that gave a reason; the zero value while there is none.
	refusal refusal
}

// pull asks for the canary as somebody who is out to have it: its tag, and then every manifest and blob whose digest is known. What the
// proxy tells on the way is added to that.
func (a *attempt) pull(ctx context.Context, ref oci.Reference, known *parts) {
	if ref.Digest == "" {
		head := a.ask(ctx, http.MethodHead, "manifests/"+ref.Tag)
		switch {
		case !a.way.mirror:
			known.addManifest(head.digest)
		case head.refused():
			a.open = fmt.Sprintf("HEAD of the tag is refused with %d", head.status)
		case slices.Contains(known.manifests, head.digest):
			a.open = "HEAD of the tag tells its digest"
		case head.status == http.StatusOK: // a tombstone
			a.manifest(ctx, head.digest.String())
		}
		known.add(a.manifest(ctx, ref.Tag))
	}
	for i := 0; i < len(known.manifests); i++ {
		reference := known.manifests[i].String()
		a.ask(ctx, http.MethodHead, "manifests/"+reference)
		known.add(a.manifest(ctx, reference))
	}
	for _, d := range known.blobs {
		for _, method := range []string{http.MethodHead, http.MethodGet} {
			if got := a.ask(ctx, method, "blobs/"+d.String()); got.status == http.StatusOK || got.status == http.StatusPartialContent {
				a.served = append(a.served, method+" of blob "+d.String())
			}
		}
	}
}

// manifest asks for a manifest, and returns it if it is served.
func (a *attempt) manifest(ctx context.Context, reference string) oci.Content {
	got := a.ask(ctx, http.MethodGet, "manifests/"+reference)
	if m, err := oci.ParseManifest(got.content.MediaType, got.content.Raw); err == nil && m.IsIndex() {
		a.indexes = append(a.indexes, "manifest "+reference)
	} else if got.status == http.StatusOK {
		a.served = append(a.served, "manifest "+reference)
	}
	if got.status == http.StatusForbidden && got.refusal.Code == string(oci.CodeDenied) && !a.refusal.judged() {
		a.refusal = got.refusal
	}
	return got.content
}

// ask sends one request, and notes what it is to be noted of every one.
func (a *attempt) ask(ctx context.Context, method, path string) nodeAnswer {
	a.asked++
	got, err := a.node.ask(ctx, method, a.way.base+path, a.way.query)
	switch {
	case err != nil:
		a.untold = append(a.untold, fmt.Sprintf("%s of %s: %s", method, path, inOneLine(err)))
	case got.status >= 300 && got.status < 400:
		a.served = append(a.served, fmt.Sprintf("%s of %s leads elsewhere", method, path))
	case got.status != http.StatusOK && got.status != http.StatusPartialContent && !got.refused():
		a.untold = append(a.untold, fmt.Sprintf("%s of %s: status %d", method, path, got.status))
	}
	return got
}

// diagnose says what the attempt has shown.
func (a *attempt) diagnose() diagnosis {
	switch {
	case len(a.served) > 0:
		d := fail("\"tidewaiter verdict\" says why it was let through; until that is mended, take it that anything is",
			"SERVED, %d of %d requests: %s", len(a.served), a.asked, firstFew(a.served))
		d.code = exitDenied
		return d
	case len(a.untold) > 0:
		return fail("see that the proxy is at --server, that its certificate is trusted (--ca-file), and who may pull there",
			"%d of %d requests were neither served nor refused: %s", len(a.untold), a.asked, firstFew(a.untold))
	case len(a.indexes) > 0:
		return fail("take an image that is no index for a canary, or name one of those in it by digest: an index is judged by what it says itself",
			"the index is served, and none of the images in it: %s", firstFew(a.indexes))
	case a.open != "":
		return fail("see that the proxy knows the image, and that nothing between here and it changes answers",
			"%s, so that a mirror's client asks the origin", a.open)
	case a.refusal.Code == "":
		return fail("see that the image is there, and that its upstream is configured", "nothing of it is served, but because the proxy does not know it: that shows nothing")
	case !a.refusal.judged():
		return doubt("let the proxy pull it, and a policy deny it", "none of %d requests was answered with content, but not for a policy: %s", a.asked, a.refusal.Message)
	}
	return well("none of %d requests was answered with content: %s", a.asked, a.refusal.Message)
}

// firstFew returns the first of texts, and how many there are besides.
func firstFew(texts []string) string {
	const few = 3
	if len(texts) <= few {
		return strings.Join(texts, "; ")
	}
	return fmt.Sprintf("%s; and %d more", strings.Join(texts[:few], "; "), len(texts)-few)
}
