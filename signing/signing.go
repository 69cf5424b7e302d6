// Package signing owns the question of who signed an image, and who attested what of it.
//
// [Verifier.Verify] finds everything that is offered as a signature or attestation of a manifest, in every way in which clients store
// one, and checks it against the authorities a policy names. It promises that each [gate.Signature] and [gate.Attestation] was made,
// over this very manifest, by that authority in a way that counts now; that what was signed says itself which of the two it is; that
// nothing offered beside a good one keeps it from counting; and that a registry which does not let us look is an error and never the
// absence of signatures. It must not decide whether they suffice.
//
// [Statements] are the other direction: what we say ourselves of the verdicts made here. They promise that of each manifest at most one
// counts, that on the verdict in force, and that nothing says of an image that it passed but a verdict that says so.
//
// There are two doors to widen it by. A way of storing signatures is a [format] in the table formats, and perhaps another place to
// look in discover; a way of being trusted is a [speaker].
//
// What is read was put there by whoever may push to the repository, or by whoever runs the registry. It is bounded (limits.go),
// compared with its digest, never decompressed, and read strictly (strict.go). A key has no clock: how long it counts is asked of
// the time now, and transparency-log entries and time stamps beside a key's signature are neither needed nor believed. A certificate
// counts at the time a log or time stamp service vouches for, and at no other.
package signing

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// Registry reads what is stored beside an image. Nothing it returns is believed. Implementations are safe for concurrent use.
type Registry interface {
	// Manifest returns the manifest that reference, a tag or a digest, names.
	// Errors: oci.ErrNotFound only if the registry says that there is none; every other error means that it was not possible to look.
	Manifest(ctx context.Context, repo oci.Repository, reference string) (oci.Content, error)
	// Blob opens a blob. Its bytes are not verified.
	// Errors: oci.ErrBlobUnknown only if the registry says that there is none.
	Blob(ctx context.Context, repo oci.Repository, desc oci.Descriptor) (io.ReadCloser, error)
	// Referrers returns what the registry lists as referring to subject, in every place where it or its clients keep such a list: all
	// pages of the referrers API and the index under the fallback tag (distribution-spec, Referrers Tag Schema). None hides what
	// another lists. Nil means that it was possible to look, and that there is nothing.
	// Errors: any error means that it was not possible to look in some place.
	Referrers(ctx context.Context, repo oci.Repository, subject oci.Digest) ([]oci.Descriptor, error)
}

// Options configure a Verifier.
type Options struct {
	// Registry is required.
	Registry Registry
	// Roots returns the trust roots in force; required, and safe for concurrent use. It may return others from one call to the next,
	// but never changes what it returned.
	Roots func() *gate.TrustRoots
	// KeyService fetches keys of authorities that lie in key management services, each once. If nil, such authorities cannot be used.
	KeyService KeyService
	// Now tells the time. If nil, time.Now is used.
	Now func() time.Time
	// SignaturesIn returns the repository in which signatures of images of another one lie too; the zero Repository for none. If
	// nil, signatures are only looked for beside the image.
	SignaturesIn func(oci.Repository) oci.Repository
	// ReferenceAliases returns further names, without tag or digest, by which a signer may have known a repository: "host/path" as
	// seen from where the images are signed. A legacy signature states such a name, and one for another repository does not count.
	// If nil, only the repository's own name counts, and for Docker Hub the other hosts it is known by. A repository hosted by
	// Tidewaiter has no host of its own: signers see the host they push to, so it needs aliases.
	ReferenceAliases func(oci.Repository) []string
	// Revision identifies what SignaturesIn and ReferenceAliases answer. Required with either: a verdict must not outlive the
	// configuration it was made by.
	Revision string
}

// Verifier implements [gate.Signatures]. It is safe for concurrent use.
type Verifier struct {
	o           Options
	authorities authorities
	// large holds a token for each large layer in memory.
	large chan struct{}
}

// New returns a Verifier. It fails when a required option is missing.
func New(o Options) (*Verifier, error) {
	switch {
	case o.Registry == nil || o.Roots == nil:
		return nil, errors.New("signing needs a registry and trust roots")
	case (o.SignaturesIn != nil || o.ReferenceAliases != nil) && o.Revision == "":
		return nil, errors.New("signing needs a revision of where signatures lie and of the aliases of repositories")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Verifier{o: o, authorities: authorities{service: o.KeyService}, large: make(chan struct{}, largeAtOnce)}, nil
}

// Revision implements [gate.Signatures]. It is empty while there are no trust roots.
func (v *Verifier) Revision() string {
	roots := v.o.Roots()
	switch {
	case roots == nil:
		return ""
	case v.o.Revision == "":
		return roots.Revision
	}
	return roots.Revision + "+" + v.o.Revision
}

// Verify implements [gate.Signatures]. The signatures it returns are sorted by authority, manifest, format and signer, attestations by
// predicate type before those, the rejections by manifest, format and text; at most [maxRejections] of them are reported. The same
// content in the registry leads to the same evidence, in whatever order the registry lists it.
//
// Errors: an authority that the trust roots do not have or whose keys cannot be used, and whatever the registry fails with.
func (v *Verifier) Verify(ctx context.Context, c gate.Candidate, wanted gate.Wanted) (gate.SignatureEvidence, error) {
	found, err := v.verify(ctx, c, wanted)
	if err != nil {
		return gate.SignatureEvidence{}, fmt.Errorf("verifying signatures of %s: %w", c, err)
	}
	return found, nil
}

func (v *Verifier) verify(ctx context.Context, c gate.Candidate, wanted gate.Wanted) (gate.SignatureEvidence, error) {
	if _, err := oci.ParseDigest(c.Digest.String()); err != nil {
		return gate.SignatureEvidence{}, err
	}
	if wanted.Nothing() {
		return gate.SignatureEvidence{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	roots := v.o.Roots()
	signers, err := v.authorities.of(ctx, roots, wanted.Signatures)
	if err != nil {
		return gate.SignatureEvidence{}, err
	}
	excusers, err := v.authorities.of(ctx, roots, wanted.VEX)
	if err != nil {
		return gate.SignatureEvidence{}, err
	}
	attesters := map[string][]authority{}
	for predicateType, names := range wanted.Attestations {
		if attesters[predicateType], err = v.authorities.of(ctx, roots, names); err != nil {
			return gate.SignatureEvidence{}, err
		}
	}
	var aliases []string
	if v.o.ReferenceAliases != nil {
		aliases = v.o.ReferenceAliases(c.Repository)
	}
	s := &search{
		subject:   subject{Candidate: c, names: namesOf(c.Repository, aliases), MediaType: wanted.MediaType, SizeBytes: wanted.SizeBytes},
		wanted:    wanted,
		registry:  v.o.Registry,
		places:    placesOf(c.Repository, v.o.SignaturesIn),
		signers:   signers,
		attesters: attesters,
		excusers:  excusers,
		now:       v.o.Now(),
		large:     v.large,
	}
	s.attested = func(predicateType string) bool {
		return len(attesters[predicateType]) > 0 || len(excusers) > 0 && vexTypes[predicateType] != nil
	}
	offers, err := s.discover(ctx)
	if err != nil {
		return gate.SignatureEvidence{}, err
	}
	if err := each(ctx, len(offers), func(ctx context.Context, i int) error { return s.examine(ctx, offers[i]) }); err != nil {
		return gate.SignatureEvidence{}, err
	}
	return s.evidence(), nil
}

// search is the looking for the signatures and attestations of one image.
type search struct {
	subject
	wanted   gate.Wanted
	registry Registry
	// places are the repositories looked in, the image's own first.
	places []oci.Repository
	// signers are the authorities asked for signatures, attesters those asked for attestations, by predicate type.
	signers   []authority
	attesters map[string][]authority
	// excusers are those asked for statements about vulnerabilities.
	excusers []authority
	now      time.Time
	large    chan struct{}

	mu sync.Mutex
	// found is guarded by mu, and in no particular order.
	found gate.SignatureEvidence
}

// examine reads one offer and adds to the evidence what it is: a signature for each authority that made it, or a rejection.
func (s *search) examine(ctx context.Context, o offer) error {
	if o.layer.Size >= largeBytes {
		select {
		case s.large <- struct{}{}:
			defer func() { <-s.large }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	body, err := s.readLayer(ctx, o)
	switch {
	case isFact(err):
		s.reject(o.manifest, o.format.name(), err)
		return nil
	case err != nil:
		return fmt.Errorf("reading the signature in %s: %w", o.manifest, err)
	}
	s.believe(o, body)
	return nil
}

// believe adds to the evidence what the layer o is found to be. What it holds was written by whoever wants to be believed, and several
// libraries read it: should one of them break on it, that is a reason not to believe it, and no reason to end the process.
func (s *search) believe(o offer, body []byte) {
	defer func() {
		if broke := recover(); broke != nil {
			s.reject(o.manifest, o.format.name(), fmt.Errorf("reading it broke the reader: %v", broke))
		}
	}()
	c, err := o.format.read(s.subject, o, body)
	if err != nil {
		s.reject(o.manifest, o.format.name(), err)
		return
	}
	s.judge(o, c)
}

func (s *search) readLayer(ctx context.Context, o offer) ([]byte, error) {
	r, err := s.registry.Blob(ctx, o.repository, o.layer)
	if err != nil {
		return nil, err
	}
	body, err := oci.ReadVerified(r, o.layer, o.format.maxBytes())
	_ = r.Close() // what was read has been verified, or it does not count
	return body, err
}

// judge finds out which authorities made c.
func (s *search) judge(o offer, c claim) {
	asked := s.signers
	if c.predicate != nil {
		asked = s.attesters[c.predicateType]
		if vexTypes[c.predicateType] != nil {
			asked = merged(asked, s.excusers)
		}
	}
	if len(asked) == 0 {
		return // a signature, where attestations are looked for
	}
	made, why := false, unsigned(asked)
	for _, a := range asked {
		m, err := a.made(c, s.now)
		switch {
		case err == nil:
			made = true
			s.accept(c, gate.Signature{
				Authority: a.name, Format: o.format.name(), Signer: m.signer, Issuer: m.issuer, SignedAt: m.at, Manifest: o.manifest, Until: m.until,
			})
		case !errors.Is(err, errNotSigned):
			why = err
		}
	}
	if !made {
		s.reject(o.manifest, o.format.name(), why)
	}
}

// unsigned says, for people, that none of the authorities asked for made something.
func unsigned(asked []authority) error {
	var names []string
	byKeys := true
	for _, a := range asked {
		names, byKeys = append(names, a.name), byKeys && a.byKeys
	}
	if byKeys {
		return fmt.Errorf("not signed with a key of %s", strings.Join(names, ", "))
	}
	return fmt.Errorf("not signed by %s", strings.Join(names, ", "))
}

// accept records that somebody made c.
func (s *search) accept(c claim, by gate.Signature) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.predicate == nil {
		s.found.Signatures = append(s.found.Signatures, by)
		return
	}
	if s.isExcuser(by.Authority) && vexTypes[c.predicateType] != nil {
		statements, err := vexTypes[c.predicateType](c.predicate, s.subject)
		if err != nil {
			s.found.Rejections = append(s.found.Rejections, gate.Rejection{Manifest: by.Manifest, Format: by.Format, Why: plain(err.Error())})
		}
		for _, x := range statements {
			x.By = by
			s.found.VEX = append(s.found.VEX, x)
		}
	}
	if !slices.ContainsFunc(s.attesters[c.predicateType], func(a authority) bool { return a.name == by.Authority }) {
		return
	}
	s.found.Attestations = append(s.found.Attestations, gate.Attestation{By: by, PredicateType: c.predicateType, Statement: c.statement, Predicate: c.predicate})
}

// isExcuser reports whether an authority is asked for statements about vulnerabilities.
func (s *search) isExcuser(name string) bool {
	return slices.ContainsFunc(s.excusers, func(a authority) bool { return a.name == name })
}

// merged returns the authorities in a or b, each once.
func merged(a, b []authority) []authority {
	all := slices.Clone(a)
	for _, other := range b {
		if !slices.ContainsFunc(all, func(a authority) bool { return a.name == other.name }) {
			all = append(all, other)
		}
	}
	return all
}

// reject records that something found in manifest is no signature. Format is empty when it did not get far enough to have one,
// manifest when it does not even have a digest.
func (s *search) reject(manifest oci.Digest, format string, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found.Rejections = append(s.found.Rejections, gate.Rejection{Manifest: manifest, Format: format, Why: plain(why.Error())})
}

// evidence returns what was found, sorted, nothing of it twice.
func (s *search) evidence() gate.SignatureEvidence {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.found
	slices.SortFunc(found.Signatures, compareSignatures)
	found.Signatures = slices.Compact(found.Signatures)
	slices.SortFunc(found.VEX, func(a, b gate.VEX) int {
		return cmp.Or(compareSignatures(a.By, b.By), slices.Compare(a.Vulnerabilities, b.Vulnerabilities), a.At.Compare(b.At),
			cmp.Compare(a.Status, b.Status), cmp.Compare(fmt.Sprint(a.Packages), fmt.Sprint(b.Packages)), cmp.Compare(a.Why, b.Why))
	})
	compare := func(a, b gate.Attestation) int {
		return cmp.Or(cmp.Compare(a.PredicateType, b.PredicateType), compareSignatures(a.By, b.By), bytes.Compare(a.Statement, b.Statement))
	}
	slices.SortFunc(found.Attestations, compare)
	found.Attestations = slices.CompactFunc(found.Attestations, func(a, b gate.Attestation) bool { return compare(a, b) == 0 })
	slices.SortFunc(found.Rejections, func(a, b gate.Rejection) int {
		return cmp.Or(cmp.Compare(a.Manifest, b.Manifest), cmp.Compare(a.Format, b.Format), cmp.Compare(a.Why, b.Why))
	})
	found.Rejections = slices.Compact(found.Rejections)
	if n := len(found.Rejections); n > maxRejections {
		found.Rejections = append(found.Rejections[:maxRejections-1], gate.Rejection{Why: fmt.Sprintf("and %d more", n-maxRejections+1)})
	}
	return found
}

// compareSignatures orders signatures by what tells one from another.
func compareSignatures(a, b gate.Signature) int {
	return cmp.Or(
		cmp.Compare(a.Authority, b.Authority), cmp.Compare(a.Manifest, b.Manifest), cmp.Compare(a.Format, b.Format), cmp.Compare(a.Signer, b.Signer),
		cmp.Compare(a.Issuer, b.Issuer), a.SignedAt.Compare(b.SignedAt), a.Until.Compare(b.Until),
	)
}
