package scan

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
)

// The child's end of the conversation: a line of JSON that says how it is confined, before it has read anything, and the inventory
// as JSON once it has read a layer. Ours: an order, and the layer's bytes. By the time of the second the child may
// be in the hands of whoever built the layer, so nothing in it is believed that can be checked.

// order says how a layer is to be read. It goes before the layer's bytes.
type order struct {
	encoding encoding
	look     gate.Look
	// sendBytes, when positive, asks for the files of the layer in place of its inventory, and is the size of the largest wanted.
	sendBytes int64
}

// orderBytes is the length of an order: a byte each for encoding and look, and sendBytes.
const orderBytes = 1 + 1 + 8

// lookForSecrets is the second byte of an order for secrets.
const lookForSecrets = 's'

func (o order) wire() []byte {
	wire := []byte{byte(o.encoding), '-'}
	if o.look.Secrets {
		wire[1] = lookForSecrets
	}
	return binary.BigEndian.AppendUint64(wire, uint64(o.sendBytes))
}

func orderOf(wire [orderBytes]byte) order {
	return order{encoding(wire[0]), gate.Look{Secrets: wire[1] == lookForSecrets}, int64(binary.BigEndian.Uint64(wire[2:]))}
}

// decodeInventory returns the inventory of layer that a child wrote.
func decodeInventory(answer []byte, layer oci.Digest) (gate.LayerInventory, error) {
	if n := bytes.Count(answer, []byte{','}) + bytes.Count(answer, []byte{'{'}); n > maxOutputValues {
		return gate.LayerInventory{}, fmt.Errorf("more than %d values", maxOutputValues)
	}
	d := json.NewDecoder(bytes.NewReader(answer))
	d.DisallowUnknownFields()
	var inv gate.LayerInventory
	if err := d.Decode(&inv); err != nil {
		return gate.LayerInventory{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return gate.LayerInventory{}, errors.New("something follows the inventory")
	}
	if err := checkInventory(inv); err != nil {
		return gate.LayerInventory{}, err
	}
	inv.Layer = layer
	for i := range inv.Gaps {
		inv.Gaps[i].Layer = layer
	}
	return inv, nil
}

// checkInventory reports what a child that only did its work would not have written.
func checkInventory(inv gate.LayerInventory) error {
	if inv.Format != gate.InventoryFormat || inv.Entries < 0 || inv.UncompressedBytes < 0 {
		return errors.New("format or sizes out of range")
	}
	if inv.DiffID != "" || len(inv.Gaps) == 0 {
		if _, err := oci.ParseDigest(inv.DiffID.String()); err != nil {
			return fmt.Errorf("diff id: %w", err)
		}
	}
	if inv.Malware != nil {
		return errors.New("something about malware, which it does not look for")
	}
	var files []string
	packages := 0
	for _, f := range inv.Files {
		files = append(files, f.Path)
		packages += len(f.Packages)
		for _, p := range f.Packages {
			if !packageTypes[p.Type] || p.Name == "" {
				return fmt.Errorf("a package of type %.20q", p.Type)
			}
			if len(p.Roots) > maxRoots || slices.ContainsFunc(p.Roots, func(root string) bool { return len(root) > maxRootBytes }) {
				return fmt.Errorf("roots of %.80q", p.Name)
			}
		}
	}
	if packages > maxPackages || len(inv.Gaps) > maxGaps+1 {
		return errors.New("more packages or gaps than are looked for")
	}
	for _, g := range inv.Gaps {
		if !slices.Contains(gate.GapKinds(), g.Kind) || len(g.Path) > maxWireQuote || len(g.Why) > 3*maxWireQuote {
			return fmt.Errorf("a gap of kind %.20q", g.Kind)
		}
	}
	for p := range inv.OSRelease {
		if databaseAt(p) != osReleaseFile {
			return fmt.Errorf("an os-release at %.80q", p)
		}
	}
	for p, channels := range inv.Channels {
		if channelReader(p) == nil || len(channels) > maxChannels || !slices.IsSorted(channels) {
			return fmt.Errorf("channels at %.80q", p)
		}
		if slices.ContainsFunc(channels, func(channel string) bool { return len(channel) > maxWireQuote }) {
			return fmt.Errorf("a channel at %.80q", p)
		}
	}
	for p, l := range inv.LicenseFiles {
		if err := checkLicense(p, l); err != nil {
			return err
		}
	}
	if len(inv.Secrets) > maxSecrets {
		return errors.New("more secrets than are looked for")
	}
	for _, s := range inv.Secrets {
		if !knownSecret(s.Kind) || s.Layer != "" || len(s.Path) > maxWireQuote {
			return fmt.Errorf("a secret of kind %.20q", s.Kind)
		}
	}
	return errors.Join(checkPaths("files", files), checkPaths("whiteouts", inv.Whiteouts), checkPaths("opaque", inv.Opaque))
}

// checkLicense reports what no file at p would have been taken to state.
func checkLicense(p string, l gate.LicenseFile) error {
	long := func(name string) bool { return len(name) > maxLicenseBytes }
	if cleanPath(p) != p || !packageTypes[l.Type] || l.Name == "" || len(l.Licenses) > maxLicenses || slices.ContainsFunc(l.Licenses, long) {
		return fmt.Errorf("a licence at %.80q", p)
	}
	return nil
}

// checkPaths reports paths that are not clean or not in order.
func checkPaths(what string, paths []string) error {
	for i, p := range paths {
		if cleanPath(p) != p || i > 0 && paths[i-1] >= p {
			return fmt.Errorf("%s: %.80q is not a clean path in order", what, p)
		}
	}
	return nil
}

// wirePath returns p as it is written into an inventory. Names in a layer are bytes, JSON is Unicode: bytes that are not valid
// UTF-8 are written as \xNN, and so that two names never become one, backslashes are doubled.
func wirePath(p string) string {
	if utf8.ValidString(p) && !strings.Contains(p, `\`) {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); {
		r, size := utf8.DecodeRuneInString(p[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, p[i])
		case r == '\\':
			b.WriteString(`\\`)
		default:
			b.WriteString(p[i : i+size])
		}
		i += size
	}
	return b.String()
}

// maxWireQuote bounds what printable returns: each byte may have become four, and the mark of the cut.
const maxWireQuote = 4*maxQuoteBytes + len("…")

// printable returns s cut to maxQuoteBytes, with everything escaped that a terminal or a log could take for its own.
func printable(s string) string {
	cut := len(s) > maxQuoteBytes
	if cut {
		s = s[:maxQuoteBytes]
	}
	quoted := strconv.QuoteToASCII(s)
	quoted = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	if cut {
		quoted += "…"
	}
	return quoted
}
