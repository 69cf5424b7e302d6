package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
)

// errPrivateAddress says that a name led to an address inside a network, which only an operator can allow.
var errPrivateAddress = errors.New("the address is not a public one")

// reserved are the ranges that lead to no public host, beside those net/netip knows (IANA special-purpose address registries).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),    // carrier-grade NAT; also a cloud's metadata service, 100.100.100.200
	netip.MustParsePrefix("168.63.129.16/32"), // a cloud's metadata service, behind an address that looks public
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"),
	netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("64:ff9b:1::/48"), // NAT64 with a network's own prefix length: the IPv4 address cannot be told
	netip.MustParsePrefix("100::/64"),
	netip.MustParsePrefix("2001::/32"), // Teredo
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("3fff::/20"),
	netip.MustParsePrefix("5f00::/16"),
	netip.MustParsePrefix("fec0::/10"), // site-local, deprecated and still routed
}

// embeddings are the IPv6 ranges that stand for an IPv4 address, and where in the sixteen bytes it lies.
var embeddings = []struct {
	prefix netip.Prefix
	offset int
}{
	{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4, RFC 3056
}

// publicAddress reports whether addr can be a host on the public internet. An IPv6 address that stands for an IPv4 one is as
// public as that.
func publicAddress(addr netip.Addr) bool {
	addr = addr.WithZone("").Unmap()
	if addr.Is6() {
		for _, e := range embeddings {
			if e.prefix.Contains(addr) {
				b := addr.As16()
				return publicAddress(netip.AddrFrom4([4]byte(b[e.offset : e.offset+4])))
			}
		}
	}
	return addr.IsGlobalUnicast() && !addr.IsPrivate() &&
		!slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// RefusePrivate is a net.Dialer's Control: it sees the address that is about to be dialled, after every name was resolved, so
// that a name which answers differently the second time gains nothing.
func RefusePrivate(_, address string, _ syscall.RawConn) error {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return &refusal{"leads to no address", fmt.Errorf("dialling %.100q: %w", address, errPrivateAddress)}
	}
	if !publicAddress(target.Addr()) {
		return &refusal{"leads to an address that is not public", fmt.Errorf("dialling %s: %w", target, errPrivateAddress)}
	}
	return nil
}
