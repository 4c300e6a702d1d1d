//! A guest of a few bytes, in place of a firmware: it goes from real mode through protected mode into 64-bit mode with
//! paging, as every kernel does, writes a text to the serial line and asks QEMU to end (or halts).
//!
//! ```text
//!    .code16                               lgdtl  %cs:(gdtr)
//!    cli                                   movl   $0x80000011,%eax     # PG, ET, PE
//!    xorw   %ax,%ax                        movl   %eax,%cr0
//!    movw   %ax,%ds                        ljmpl  $8,$0xf0059
//!    movw   %ax,%es                     .code64
//!    movw   $0x1000,%di                    movw   $0x3f8,%dx           # COM1
//!    movw   $0x1800,%cx                    leaq   text(%rip),%rsi
//!    cld                                1: lodsb
//!    rep    stosw                          testb  %al,%al
//!    movw   $0x2003,0x1000   # PML4        jz     2f
//!    movw   $0x3003,0x2000   # PDPT        outb   %al,(%dx)
//!    movw   $0x0083,0x3000   # 2 MiB       jmp    1b
//!    movl   $0x1000,%eax                2: movb   $0x2a,%al
//!    movl   %eax,%cr3                      outb   %al,$0xf4            # isa-debug-exit
//!    movl   $0x20,%eax       # PAE      3: hlt
//!    movl   %eax,%cr4                      jmp    3b
//!    movl   $0xC0000080,%ecx            gdt:  .quad 0, 0x00209A0000000000
//!    rdmsr                              gdtr: .word 15
//!    orw    $0x100,%ax       # LME            .long gdt
//!    wrmsr                              text: .asciz …
//! ```

/// Where the ROM is mapped, and how large it is.
const SIZE: usize = 0x1_0000;
/// Where the processor starts: 16 bytes before the end.
const RESET: usize = SIZE - 16;
/// `ljmpw $0xf000,$0`.
const JUMP: [u8; 5] = [0xea, 0, 0, 0, 0xf0];
const CODE: [u8; 0x73] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0xbf, 0x00, 0x10, 0xb9, 0x00, 0x18, 0xfc, 0xf3, 0xab, 0xc7, 0x06, 0x00,
    0x10, 0x03, 0x20, 0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, 0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, 0x66, 0xb8, 0x00, 0x10,
    0x00, 0x00, 0x0f, 0x22, 0xd8, 0x66, 0xb8, 0x20, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, 0x66, 0xb9, 0x80, 0x00, 0x00,
    0xc0, 0x0f, 0x32, 0x0d, 0x00, 0x01, 0x0f, 0x30, 0x2e, 0x66, 0x0f, 0x01, 0x16, 0x90, 0x00, 0x66, 0xb8, 0x11, 0x00,
    0x00, 0x80, 0x0f, 0x22, 0xc0, 0x66, 0xea, 0x59, 0x00, 0x0f, 0x00, 0x08, 0x00, 0x66, 0xba, 0xf8, 0x03, 0x48, 0x8d,
    0x35, 0x3c, 0x00, 0x00, 0x00, 0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, 0xb0, 0x2a, 0xe6, 0xf4, 0xf4, 0xeb,
    0xfd,
];
/// Null and 64-bit code.
const GDT: (usize, [u64; 2]) = (0x80, [0, 0x0020_9a00_0000_0000]);
/// Limit and base of the table.
const GDTR: (usize, [u8; 6]) = (0x90, [15, 0, 0x80, 0x00, 0x0f, 0x00]);
/// Where the text is.
const TEXT: usize = 0xa0;

/// What QEMU's process returns when the guest has come to its end: `0x2a << 1 | 1`.
pub(crate) const RAN: i32 = 85;

/// QEMU's arguments for the device by which the guest ends it.
pub(crate) const EXIT_DEVICE: [&str; 2] = ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"];

/// The guest with its text, of which it writes what fits.
pub(crate) fn build(text: &str) -> Vec<u8> {
    let mut rom = vec![0; SIZE];
    rom[..CODE.len()].copy_from_slice(&CODE);
    for (at, entry) in (GDT.0..).step_by(8).zip(GDT.1) {
        rom[at..at + 8].copy_from_slice(&entry.to_le_bytes());
    }
    rom[GDTR.0..GDTR.0 + 6].copy_from_slice(&GDTR.1);
    let fits = text.len().min(RESET - TEXT - 1);
    rom[TEXT..TEXT + fits].copy_from_slice(&text.as_bytes()[..fits]);
    rom[RESET..RESET + JUMP.len()].copy_from_slice(&JUMP);
    rom
}
