// Linked into the static binary. glibc resolves names by the modules that /etc/nsswitch.conf lists, and a static
// program that loads one of another glibc crashes. Host names and users are therefore looked up in files and DNS only,
// which are part of glibc itself.
// SPDX-License-Identifier: MIT OR Apache-2.0
#include <nss.h>

__attribute__((constructor)) static void use_files_and_dns(void)
{
    __nss_configure_lookup("hosts", "files dns");
    __nss_configure_lookup("passwd", "files");
    __nss_configure_lookup("group", "files");
    __nss_configure_lookup("services", "files");
}
