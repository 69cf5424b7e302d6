package upstream

import (
	"errors"
	"net/netip"
	"testing"
)

func TestPublicAddress(t *testing.T) {
	tests := map[string]bool{
		"1.1.1.1":                true,
		"52.216.0.1":             true,
		"172.32.0.1":             true,
		"100.63.255.255":         true,
		"100.128.0.0":            true,
		"2606:4700::1111":        true,
		"::ffff:1.1.1.1":         true, // mapped
		"64:ff9b::1.1.1.1":       true, // NAT64
		"2002:101:101::1":        true, // 6to4 of 1.1.1.1
		"127.0.0.1":              false,
		"127.8.8.8":              false,
		"10.0.0.1":               false,
		"172.16.0.1":             false,
		"192.168.1.1":            false,
		"169.254.169.254":        false,
		"100.64.0.1":             false,
		"100.100.100.200":        false,
		"168.63.129.16":          false,
		"0.0.0.0":                false,
		"0.1.2.3":                false,
		"192.0.0.192":            false,
		"198.18.0.1":             false,
		"224.0.0.1":              false,
		"240.0.0.1":              false,
		"255.255.255.255":        false,
		"::":                     false,
		"::1":                    false,
		"fe80::1":                false,
		"fe80::1%eth0":           false,
		"fec0::1":                false,
		"fd00:ec2::254":          false,
		"ff02::1":                false,
		"::ffff:127.0.0.1":       false,
		"::ffff:169.254.169.254": false,
		"::ffff:0:10.0.0.1":      false, // translated
		"::10.0.0.1":             false, // compatible
		"64:ff9b::10.0.0.1":      false,
		"64:ff9b::a9fe:a9fe":     false,
		"64:ff9b:1::1.1.1.1":     false, // a network's own NAT64
		"2002:7f00:1::":          false, // 6to4 of 127.0.0.1
		"2002:a9fe:a9fe::1":      false,
		"2001::1":                false, // Teredo
		"2001:db8::1":            false,
		"100::1":                 false,
	}
	for text, want := range tests {
		t.Run(text, func(t *testing.T) {
			if got := publicAddress(netip.MustParseAddr(text)); got != want {
				t.Errorf("got %t, want %t", got, want)
			}
		})
	}
	if publicAddress(netip.Addr{}) {
		t.Error("got true for the zero address, want false")
	}
}

func TestRefusePrivate(t *testing.T) {
	tests := map[string]error{
		"1.1.1.1:443":             nil,
		"[2606:4700::1111]:443":   nil,
		"127.0.0.1:80":            errPrivateAddress,
		"[::1]:80":                errPrivateAddress,
		"[fe80::1%eth0]:80":       errPrivateAddress,
		"[::ffff:10.0.0.1]:443":   errPrivateAddress,
		"localhost:80":            errPrivateAddress, // a name should have been resolved by now
		"":                        errPrivateAddress,
		"/var/run/something.sock": errPrivateAddress,
	}
	for address, want := range tests {
		t.Run(address, func(t *testing.T) {
			if got := RefusePrivate("tcp", address, nil); !errors.Is(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}
